//! How the executable is linked.
//!
//! Owns: that its segments can be put on huge pages, see `stockade_sys::text`.
//! Never: generates code.

/// Size of a huge page: no two segments are to share one's addresses. The file grows by nothing.
const HUGE_PAGE: &str = "0x200000";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,max-page-size={HUGE_PAGE}");
}
