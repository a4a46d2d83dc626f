//! `include/tenure.h` is what cbindgen makes of `src/ffi` now. `UPDATE_HEADER=1` rewrites it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

fn generated(root: &Path) -> String {
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let mut parts = version.split('.');
    let after = config.after_includes.take().unwrap();
    let mut part = || parts.next().unwrap();
    let after = after.replace("@MAJOR@", part()).replace("@MINOR@", part()).replace("@PATCH@", part());
    config.after_includes = Some(after.replace("@VERSION@", version));
    let mut text = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/base/status.rs"))
        .with_src(root.join("src/ffi/mod.rs"))
        .generate()
        .unwrap()
        .write(&mut text);
    // The statuses are of one enum but carry the library's prefix alone; the cell is declared in two headers,
    // where a typedef could stand only once.
    String::from_utf8(text)
        .unwrap()
        .replace("TENURE_STATUS_", "TENURE_")
        .replace("const tenure_gate_cell *", "const struct tenure_gate_cell *")
}

#[test]
fn the_header_is_that_of_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (path, text) = (root.join("include/tenure.h"), generated(root));
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    let line = present.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(present == text, "include/tenure.h differs (first at line {line:?}); UPDATE_HEADER=1 rewrites it");
}

#[test]
fn every_function_says_what_it_takes_and_gives() {
    let text = generated(Path::new(env!("CARGO_MANIFEST_DIR")));
    let returns = ["int32_t ", "uint32_t ", "uint64_t ", "void ", "bool ", "const char *"];
    let (mut seen, mut missing) = (0, Vec::new());
    for block in text.split("/**").skip(1) {
        let Some((doc, code)) = block.split_once("*/") else { continue };
        let code = code.trim_start();
        let Some(declared) = returns.iter().find_map(|r| code.strip_prefix(r)).filter(|c| c.starts_with("tenure_")) else { continue };
        seen += 1;
        let name = declared.split('(').next().unwrap();
        missing.extend(["Returns:", "Threads:", "Since:"].into_iter().filter(|w| !doc.contains(w)).map(|w| format!("{name}: {w}")));
        if !declared.contains("(void)") && !doc.contains("Parameters:") {
            missing.push(format!("{name}: Parameters:"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(seen > 40, "only {seen} functions were found");
}
