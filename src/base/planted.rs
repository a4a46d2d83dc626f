//! Mistakes that are planted on purpose, to see which tests find them (`make mutants`).
//!
//! `planted!("name")` is `false`, and folded away, unless the crate is built with `--cfg tenure_mutants`; then it is true in a process whose
//! environment says `TENURE_MUTANT=name`. No build that anybody uses has that cfg.

#[cfg(not(tenure_mutants))]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}

#[cfg(tenure_mutants)]
macro_rules! planted {
    ($name:literal) => {
        $crate::base::planted::is_on($name)
    };
}

/// Whether this mistake is the one that the environment asks for.
#[cfg(tenure_mutants)]
pub(crate) fn is_on(name: &str) -> bool {
    static WANTED: once_cell::sync::Lazy<Option<String>> = once_cell::sync::Lazy::new(|| std::env::var("TENURE_MUTANT").ok());
    WANTED.as_deref() == Some(name)
}

pub(crate) use planted;
