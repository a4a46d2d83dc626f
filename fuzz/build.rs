//! Compiles the C program whose calls are a target, too.

fn main() {
    let root = std::path::Path::new("..");
    println!("cargo::rerun-if-changed=../tests/c/fuzz.c");
    cc::Build::new().file(root.join("tests/c/fuzz.c")).include(root.join("include")).define("TENURE_FUZZ_TARGET", None).define("_GNU_SOURCE", None).compile("calls");
}
