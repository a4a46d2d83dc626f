//! What is generated from the core's two tables, and whether the checked-in copies say what the tables say:
//! the classes in `python/tenure/errors.py`, `docs/errors.md`, `docs/configuration.md`.
//! `UPDATE_GENERATED=1 cargo test --test errors` rewrites them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use tenure::base::config::{Form, SETTINGS};
use tenure::base::status::{FATAL, MAYBE_APPLIED, RETRIABLE, Status};

const BEGIN: &str = "# Generated from src/base/status.rs: begin";
const END: &str = "# Generated from src/base/status.rs: end";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compares a checked-in file with what it should be, or rewrites it.
fn hold(name: &str, wanted: &str) {
    let path = path(name);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, wanted).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{name} differs from its table: run `make fix` and review the difference");
}

/// The doc comment of a variant of `Status`, as written in the source.
fn doc(status: Status) -> String {
    let source = include_str!("../src/base/status.rs");
    let line = format!("    {status:?} = {},", status as i32);
    let before: Vec<_> = source.lines().take_while(|l| *l != line).collect();
    assert!(before.len() < source.lines().count(), "{status:?} was not found in the source");
    let mut lines: Vec<_> = before.iter().rev().map_while(|l| l.trim().strip_prefix("/// ")).collect();
    lines.reverse();
    assert!(!lines.is_empty(), "{status:?} has no doc comment");
    lines.join(" ")
}

/// Breaks a text into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().unwrap();
        if !last.is_empty() && last.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

fn band(status: Status) -> &'static str {
    match status as i32 {
        0 => "Success",
        1..=99 => "Expected outcomes",
        100..=199 => "The caller's mistake",
        200..=299 => "The environment",
        900..=999 => "A defect in the library",
        other => panic!("{other} is in no band"),
    }
}

fn python_classes() -> String {
    let py_bool = |yes| if yes { "True" } else { "False" };
    let mut out = String::new();
    let mut by_code = String::new();
    let mut names = String::new();
    for s in Status::ALL.iter().filter(|s| **s != Status::Ok) {
        let spec = s.spec();
        let bases = if spec.builtin.is_empty() { "Error".to_owned() } else { format!("Error, {}", spec.builtin) };
        let one_line = doc(*s).replace('`', "``");
        let doc_lines = if one_line.len() + 10 <= 140 {
            format!("    \"\"\"{one_line}\"\"\"\n")
        } else {
            let text = wrap(&one_line, 120);
            format!("    \"\"\"{}\n    \"\"\"\n", text.join("\n    "))
        };
        write!(
            out,
            "class {}({bases}):\n{doc_lines}\n    code = {}\n    status = \"{}\"\n    retriable = {}\n    maybe_applied = {}\n    fatal = {}\n\n\n",
            spec.class,
            *s as i32,
            spec.name,
            py_bool(s.is(RETRIABLE)),
            py_bool(s.is(MAYBE_APPLIED)),
            py_bool(s.is(FATAL)),
        )
        .unwrap();
        writeln!(by_code, "    {}: {},", *s as i32, spec.class).unwrap();
    }
    let mut classes: Vec<_> = Status::ALL.iter().map(|s| s.spec().class).filter(|c| !c.is_empty()).chain(["Error"]).collect();
    classes.sort_unstable();
    for class in classes {
        writeln!(names, "    \"{class}\",").unwrap();
    }
    format!("{out}BY_CODE: dict[int, type[Error]] = {{\n{by_code}}}\n\n__all__ = [\n{names}]\n")
}

#[test]
fn the_python_classes_are_those_of_the_table() {
    let name = "python/tenure/errors.py";
    let text = fs::read_to_string(path(name)).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{name} has lost its line {BEGIN:?}"));
    let (_, tail) = rest.split_once(END).unwrap_or_else(|| panic!("{name} has lost its line {END:?}"));
    hold(name, &format!("{head}{BEGIN}\n\n\n{}\n{END}{tail}", python_classes()));
}

#[test]
fn docs_errors_lists_the_table() {
    let mut out = String::from(
        "# Errors\n\n\
         Generated from `src/base/status.rs`; `make fix` rewrites it.\n\n\
         Every failure has a number, a name, a message that says what was wrong with which argument, file, key or limit, and where they\n\
         apply the operating system's `errno` and the fencing token or epoch concerned. Numbers are append-only: a retired one is never\n\
         given to another meaning. A program that meets a number it does not know acts on its band and its flags.\n\n\
         - **retriable**: the same call, with the same arguments, may succeed later.\n\
         - **maybe applied**: the operation may have taken effect although it did not report success.\n\
         - **fatal**: the object cannot be used any more.\n\n\
         In C the constant is `TENURE_<NAME>` and `tenure_status_is(status, flag)` answers for the flags. In Python every class derives\n\
         from `tenure.Error`, with `code`, `status`, `retriable`, `maybe_applied`, `fatal`, `os_errno` and `token`.\n",
    );
    let mut heading = "";
    for s in Status::ALL {
        let spec = s.spec();
        if band(*s) != heading {
            heading = band(*s);
            write!(out, "\n## {heading}\n\n| number | name | Python | flags | meaning |\n|---|---|---|---|---|\n").unwrap();
        }
        let flags: Vec<_> = [(RETRIABLE, "retriable"), (MAYBE_APPLIED, "maybe applied"), (FATAL, "fatal")]
            .into_iter()
            .filter(|(flag, _)| s.is(*flag))
            .map(|(_, name)| name)
            .collect();
        let class = match (spec.class, spec.builtin) {
            ("", _) => String::new(),
            (class, "") => format!("`{class}`"),
            (class, builtin) => format!("`{class}` (a `{builtin}`)"),
        };
        writeln!(out, "| {} | `{}` | {class} | {} | {} |", *s as i32, spec.name, flags.join(", "), doc(*s)).unwrap();
    }
    hold("docs/errors.md", &out);
}

#[test]
fn docs_configuration_lists_the_table() {
    let mut out = String::from(
        "# Settings\n\n\
         Generated from `src/base/config.rs`; `make fix` rewrites it.\n\n\
         Settings have names and text values, the same in C (`tenure_config_set`), C++, Rust (`Config::set`) and a file of `name = value` lines\n\
         (`#` starts a comment line). A value out of range or of the wrong form is refused by name and leaves the old value in place.\n\n\
         In Python they are keyword arguments: `gate.mode` is `gate_mode`, and one that ends in `_ms` may be given without the ending as\n\
         float seconds or a `timedelta` (`session_ttl=2.5` is `session_ttl_ms=2500`). `gate.*` settings may be given to a node, as the default of\n\
         its gates, and to one gate (there without the prefix: `node.gate(\"writes\", leash=0.5)`).\n\n\
         | name | accepts | default | what it does |\n|---|---|---|---|\n",
    );
    for s in SETTINGS {
        let accepts = match s.form {
            Form::Text(what) => what.to_owned(),
            Form::NodeId => "a node id, 1 to 64 characters".to_owned(),
            Form::Number(low, high) => format!("{low} to {high}"),
            Form::Choice(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
        };
        let default = if s.default.is_empty() { "empty".to_owned() } else { format!("`{}`", s.default) };
        writeln!(out, "| `{}` | {accepts} | {default} | {} |", s.name, s.text).unwrap();
    }
    hold("docs/configuration.md", &out);
}

#[test]
fn each_status_has_one_row_one_class_and_one_number() {
    let numbers: BTreeSet<_> = Status::ALL.iter().map(|s| *s as i32).collect();
    let names: BTreeSet<_> = Status::ALL.iter().map(|s| s.spec().name).collect();
    let classes: BTreeSet<_> = Status::ALL.iter().map(|s| s.spec().class).collect();
    assert_eq!((numbers.len(), names.len(), classes.len()), (Status::ALL.len(), Status::ALL.len(), Status::ALL.len()));
    let variants = include_str!("../src/base/status.rs").lines().filter(|l| {
        let Some((name, number)) = l.trim().trim_end_matches(',').split_once(" = ") else { return false };
        name.chars().all(char::is_alphanumeric) && number.parse::<i32>().is_ok()
    });
    assert_eq!(variants.count(), Status::ALL.len(), "Status::ALL leaves a variant out");
    for s in Status::ALL {
        let spec = s.spec();
        assert_eq!(Status::from_code(*s as i32), Some(*s));
        assert_eq!(spec.class.is_empty(), *s == Status::Ok, "{s:?}");
        assert!(!spec.text.is_empty() && !spec.text.ends_with('.'), "{s:?}: {:?}", spec.text);
        assert!(!band(*s).is_empty());
    }
}
