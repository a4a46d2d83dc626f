//! Compiles the C++ reference into the bench, so that one process runs both in turn.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=reference.cpp");
    let out = env::var("OUT_DIR").expect("set by cargo");
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let object = format!("{out}/reference.o");
    let run = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).status().unwrap_or_else(|e| panic!("{program}: {e}"));
        assert!(status.success(), "{program} {args:?} failed");
    };
    run(&compiler, &["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-c", "reference.cpp", "-o", &object]);
    run("ar", &["crs", &format!("{out}/libreference.a"), &object]);
    println!("cargo::rustc-link-search=native={out}");
    println!("cargo::rustc-link-lib=static=reference");
    println!("cargo::rustc-link-lib=dylib=stdc++");
}
