//! How this crate's tests are linked.
//!
//! Owns: that their segments can be put on huge pages, as the product's can (`build.rs` of the workspace's root).
//! Never: generates code.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-tests=-Wl,-z,max-page-size=0x200000");
}
