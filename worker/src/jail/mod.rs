//! (being written)

/// Proof that the jail is on; its real form comes with the jail.
#[derive(Debug)]
pub struct Sealed(());
