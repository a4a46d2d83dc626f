//! Gives the shared library its SONAME and keeps it mapped once loaded.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=include");
    let var = |name: &str| env::var(name).unwrap_or_default();

    // The rule that cargo-c applies too: 0.x libraries break at each minor version.
    let soname = match var("CARGO_PKG_VERSION_MAJOR").as_str() {
        "0" => format!("libtenure.so.0.{}", var("CARGO_PKG_VERSION_MINOR")),
        major => format!("libtenure.so.{major}"),
    };
    if var("CARGO_CFG_TARGET_OS") == "linux" {
        // These arguments reach every shared library that is built on this package, the Python extension among them:
        // it must not answer to the name of the C library, whose symbols it does not have.
        if env::var_os("CARGO_FEATURE_CAPI").is_some() {
            println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{soname}");
        }
        // Threads of ours may outlive a dlclose(); their code must not be unmapped under them.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    println!("cargo::metadata=include={}/include", var("CARGO_MANIFEST_DIR"));
}
