//! String-keyed settings: one table, from which `docs/configuration.md` is generated and every value is checked.
//!
//! New settings need no new function in any of the three languages. Values are text in all of them; a value out of
//! range or of the wrong form is refused when it is set, by name, and leaves the old value in place.

use std::collections::BTreeMap;

use super::error::{Error, Result};
use super::ids::NodeId;
use super::status::Status;

/// What a setting accepts.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Any text; the string says what it means.
    Text(&'static str),
    /// A node id.
    NodeId,
    /// A whole number within both bounds.
    Number(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key. `gate.*` settings may be given for the node (as a default for its gates) and for one gate.
    pub name: &'static str,
    /// What it accepts.
    pub form: Form,
    /// The value when it is not set.
    pub default: &'static str,
    /// What it does.
    pub text: &'static str,
}

const BOOL: Form = Form::Choice(&["false", "true"]);

/// Every setting, sorted by name.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "advertise",
        form: Form::Text("host:port"),
        default: "",
        text: "Address at which the other members reach this one. Empty: its own in `peers`, or where it listens.",
    },
    Setting {
        name: "boot_id_path",
        form: Form::Text("path"),
        default: "/proc/sys/kernel/random/boot_id",
        text: "File that names this boot of the machine. When it changes under a running node, the node was moved to another machine: its gates close.",
    },
    Setting {
        name: "cluster_id",
        form: Form::Text("name"),
        default: "tenure",
        text: "Name of the cluster. A data directory of another cluster is refused.",
    },
    Setting {
        name: "connect",
        form: Form::Text("host:port,..."),
        default: "",
        text: "Addresses of members of a cluster that this process uses without being one of them. It keeps nothing on disk.",
    },
    Setting {
        name: "data_dir",
        form: Form::Text("path"),
        default: "",
        text: "Directory for durable state. Empty: the node lives in memory and forgets everything when it closes.",
    },
    Setting {
        name: "data_dir_create",
        form: BOOL,
        default: "true",
        text: "Whether a data directory that does not exist, or is empty and unmarked, may be initialised. A directory that has lost its files is refused either way.",
    },
    Setting {
        name: "delivery",
        form: Form::Choice(&["thread", "fd"]),
        default: "thread",
        text: "Where completions and events are called: on the library's own thread, or by the host's call of dispatch when the event file descriptor is readable.",
    },
    Setting {
        name: "election_max_ms",
        form: Form::Number(50, 60_000),
        default: "260",
        text: "A member that has not heard of its leader for this long, and then for a random time between `election_min_ms` and this, stands for election. A leader that is gone is replaced after 1.5 to 2 times this. At least three times `heartbeat_ms`.",
    },
    Setting {
        name: "election_min_ms",
        form: Form::Number(30, 60_000),
        default: "120",
        text: "See `election_max_ms`. Longer than `heartbeat_ms`.",
    },
    Setting {
        name: "etcd",
        form: Form::Text("http://host:port,..."),
        default: "",
        text: "Addresses of an etcd cluster, in which the node then keeps its locks; with https:// the files are tls_ca, tls_cert and tls_key. Unsupported in a build without the cargo feature `etcd`.",
    },
    Setting { name: "etcd_prefix", form: Form::Text("text"), default: "tenure/locks/", text: "How the names of the keys in etcd begin." },
    Setting {
        name: "gate.beat_timeout_ms",
        form: Form::Number(0, 3_600_000),
        default: "0",
        text: "How long the host may go without a call of beat: then the gate closes and its lease is not renewed. 0: the host need not call it.",
    },
    Setting {
        name: "gate.clock",
        form: Form::Choice(&["boottime", "tsc"]),
        default: "boottime",
        text: "Clock of the hot path. tsc is the named weaker mode: it needs an invariant TSC, does not count a suspend by itself, and falls back to boottime when it disagrees.",
    },
    Setting {
        name: "gate.drain_budget_ms",
        form: Form::Number(0, 60_000),
        default: "0",
        text: "How long before the hard deadline new writes are refused, so that those in flight can finish. 0: a tenth of the lease.",
    },
    Setting {
        name: "gate.epoch_jump_max",
        form: Form::Number(1, 1 << 62),
        default: "1048576",
        text: "The largest step by which a heartbeat may raise the epoch. A larger one is refused with an error.",
    },
    Setting {
        name: "gate.leash_ms",
        form: Form::Number(20, 10_000),
        default: "1000",
        text: "The longest time for which a published deadline may be used without being looked at again by the library's thread.",
    },
    Setting {
        name: "gate.mode",
        form: Form::Choice(&["disabled", "log-only", "block-write"]),
        default: "block-write",
        text: "What a closed gate does. disabled and log-only are the named weaker modes: they let every write pass.",
    },
    Setting {
        name: "gate.on_expiry",
        form: Form::Choice(&["none", "abort", "abort-always"]),
        default: "none",
        text: "What happens when a lease ends without a hand-over: abort ends the process by SIGABRT if writes are in flight, abort-always in any case.",
    },
    Setting {
        name: "gate.start_open",
        form: BOOL,
        default: "false",
        text: "Named weaker mode: the gate is open from its creation until the first grant.",
    },
    Setting {
        name: "gate.trust_receipt",
        form: BOOL,
        default: "false",
        text: "Named weaker mode: a heartbeat without a nonce is counted from its receipt, so one that waited in a socket renews too much.",
    },
    Setting {
        name: "gate.ttl_max_ms",
        form: Form::Number(100, 86_400_000),
        default: "300000",
        text: "Longest lease that a heartbeat may give; a longer one is cut to it.",
    },
    Setting {
        name: "gate.ttl_min_ms",
        form: Form::Number(20, 86_400_000),
        default: "100",
        text: "Shortest lease that a heartbeat may give; a shorter one is refused.",
    },
    Setting {
        name: "gate.watchdog",
        form: Form::Text("path"),
        default: "",
        text: "Watchdog device, such as /dev/watchdog, fed by the library's thread while the gate is open, and disarmed when no write is in flight after that. Empty: none.",
    },
    Setting {
        name: "granter_trust_receipt",
        form: BOOL,
        default: "false",
        text: "Named weaker mode: a granter may send leases without a nonce, whose holders count from receipt. Such a lease can outlive what was promised by as long as it was under way.",
    },
    Setting {
        name: "heartbeat_ms",
        form: Form::Number(5, 10_000),
        default: "80",
        text: "How often a leader that has nothing to say says so.",
    },
    Setting {
        name: "insecure",
        form: BOOL,
        default: "false",
        text: "Named weaker mode: members talk in plain text, to other machines too. Whoever reaches the port can do everything.",
    },
    Setting {
        name: "join_token",
        form: Form::Text("token"),
        default: "",
        text: "What a node that joins by `seeds` shows, once, to be let in. It never appears in a log or a status.",
    },
    Setting {
        name: "join_tokens",
        form: Form::Choice(&["auto", "off", "required"]),
        default: "auto",
        text: "Whether the cluster that this node founds lets a new node in only by a one-time token; kept by the cluster from then on. auto: required unless its members talk in plain text on loopback. off is the named weaker mode elsewhere.",
    },
    Setting {
        name: "listen",
        form: Form::Text("host:port"),
        default: "",
        text: "Where this node listens for other members and clients. Empty: no network. It needs `peers` or `seeds`, which make the node a member of a cluster.",
    },
    Setting { name: "max_locks", form: Form::Number(1, 1 << 32), default: "16777216", text: "Most lock names in use at once." },
    Setting { name: "max_sessions", form: Form::Number(1, 1 << 24), default: "65536", text: "Most sessions at once." },
    Setting {
        name: "max_waiters_per_key",
        form: Form::Number(1, 1 << 20),
        default: "1024",
        text: "Most waiters in the queue of one lock.",
    },
    Setting {
        name: "memory_shards",
        form: Form::Number(0, 65_536),
        default: "0",
        text: "Parts into which an in-memory node divides its lock table, rounded up to a power of two; more let more threads work at once and take more of the cache. 0: 512 for each processor.",
    },
    Setting {
        name: "node_id",
        form: Form::NodeId,
        default: "",
        text: "This node's name, unique in the cluster. Empty: a random one, kept in the data directory where there is one.",
    },
    Setting {
        name: "peers",
        form: Form::Text("name=host:port,..."),
        default: "",
        text: "The members that found the cluster together, this node included; the same list on all of them.",
    },
    Setting {
        name: "request_timeout_ms",
        form: Form::Number(100, 600_000),
        default: "3000",
        text: "Within this a member answers an operation, with Unavailable when no majority could be asked. Waiting for a lock is not counted. Over a lock service of the host's: a call that takes longer is given up.",
    },
    Setting {
        name: "seeds",
        form: Form::Text("host:port,..."),
        default: "",
        text: "Members to ask to be let in; nodes that start at once with the same seeds, their own addresses among them, form one cluster.",
    },
    Setting {
        name: "service_poll_ms",
        form: Form::Number(1, 60_000),
        default: "100",
        text: "For a node over a lock service of the host's: how long a waiter leaves between two attempts, a quarter more or less, where the service cannot wait by itself.",
    },
    Setting {
        name: "service_unfenced_gates",
        form: BOOL,
        default: "false",
        text: "Named weaker mode: gates may hold office over a lock service that gives no fencing tokens. Their epochs are then this process's own count, and fence nobody.",
    },
    Setting {
        name: "session_ttl_ms",
        form: Form::Number(100, 86_400_000),
        default: "10000",
        text: "How long the node's own session lives without a renewal. It is renewed every third of it.",
    },
    Setting {
        name: "snapshot_bytes",
        form: Form::Number(1 << 16, 1 << 40),
        default: "67108864",
        text: "Log size after which a durable node writes a snapshot and recycles the log.",
    },
    Setting {
        name: "take_over",
        form: Form::Choice(&["off", "release", "keep"]),
        default: "off",
        text: "What a node with a data directory does with the session that its process before has left by a crash, given that it ran with this setting too. `off`: it runs out. `release`: its locks are lost at once, and free when their lock-delays are over. `keep`: its locks become this process's, each under a new fencing token, once they are asked for.",
    },
    Setting {
        name: "tls_ca",
        form: Form::Text("path"),
        default: "",
        text: "PEM file: who may sign certificates of this cluster. With `tls_cert` and `tls_key` members talk TLS 1.3 and check each other.",
    },
    Setting {
        name: "tls_cert",
        form: Form::Text("path"),
        default: "",
        text: "PEM file: this node's certificate, whose only URI name is `tenure://cluster_id/node_id`. Replaced files are taken over while running.",
    },
    Setting {
        name: "tls_key",
        form: Form::Text("path"),
        default: "",
        text: "PEM file: its private key, readable by owner and group at most.",
    },
    Setting {
        name: "vmgenid_path",
        form: Form::Text("path"),
        default: "/sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw",
        text: "File with the virtual machine's generation id, where the hypervisor gives one. When it changes the machine was restored or cloned: gates close, and only a higher epoch opens them.",
    },
    Setting {
        name: "wal_segment_bytes",
        form: Form::Number(1 << 16, 1 << 30),
        default: "16777216",
        text: "Size of one preallocated segment of the log.",
    },
];

/// A set of settings. Not shared between threads while it is being filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    values: BTreeMap<&'static str, String>,
}

impl Config {
    /// All settings at their defaults.
    pub fn new() -> Config {
        Config::default()
    }

    /// Sets one setting.
    ///
    /// # Errors
    /// [`Status::UnknownOption`] or [`Status::InvalidArgument`], naming the key; the old value stays.
    pub fn set(&mut self, name: &str, value: &str) -> Result<&mut Config> {
        let setting = find(name)?;
        check(setting, value)?;
        self.values.insert(setting.name, value.to_owned());
        Ok(self)
    }

    /// The value of a setting, or its default.
    ///
    /// # Errors
    /// [`Status::UnknownOption`].
    pub fn get(&self, name: &str) -> Result<&str> {
        let setting = find(name)?;
        Ok(self.values.get(setting.name).map_or(setting.default, String::as_str))
    }

    /// Reads `key = value` lines; `#` starts a comment line. All or nothing.
    ///
    /// # Errors
    /// As [`Config::set`], naming the line.
    pub fn load(&mut self, text: &str) -> Result<()> {
        let mut next = self.clone();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |e: Error| Error::new(e.status(), format!("line {}: {}", number + 1, e.message()));
            let Some((name, value)) = line.split_once('=') else {
                return Err(at(Error::invalid("configuration", "expected key = value")));
            };
            next.set(name.trim(), value.trim()).map_err(at)?;
        }
        *self = next;
        Ok(())
    }

    /// These settings, with those of `over` taking precedence: a gate's own over its node's.
    pub fn overlaid(&self, over: &Config) -> Config {
        let mut merged = self.clone();
        merged.values.extend(over.values.iter().map(|(k, v)| (*k, v.clone())));
        merged
    }

    /// Whether the setting was given a value.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A [`Form::Number`] setting's value.
    ///
    /// # Errors
    /// [`Status::UnknownOption`], or [`Status::InvalidArgument`] when the setting is not a number.
    pub fn number(&self, name: &str) -> Result<u64> {
        let text = self.get(name)?;
        text.parse().map_err(|_| Error::invalid(name, format_args!("{text:?} is not a whole number")))
    }

    /// Whether a yes-or-no setting is on.
    ///
    /// # Errors
    /// [`Status::UnknownOption`].
    pub fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.get(name)? == "true")
    }
}

fn find(name: &str) -> Result<&'static Setting> {
    SETTINGS
        .binary_search_by(|s| s.name.cmp(name))
        .ok()
        .and_then(|at| SETTINGS.get(at))
        .ok_or_else(|| Error::new(Status::UnknownOption, format!("no setting is called {:?}", name.escape_debug().to_string())))
}

fn check(setting: &Setting, value: &str) -> Result<()> {
    match setting.form {
        Form::Text(_) if value.contains('\0') => Err(Error::invalid(setting.name, "holds a NUL byte")),
        Form::Text(_) => Ok(()),
        Form::NodeId => NodeId::new(value).map(|_| ()),
        Form::Number(low, high) => match value.parse::<u64>() {
            Ok(n) if (low..=high).contains(&n) => Ok(()),
            Ok(n) => Err(Error::invalid(setting.name, format_args!("{n} is not in {low}..={high}"))),
            Err(_) => Err(Error::invalid(setting.name, format_args!("{value:?} is not a whole number"))),
        },
        Form::Choice(words) if words.contains(&value) => Ok(()),
        Form::Choice(words) => Err(Error::invalid(setting.name, format_args!("{value:?} is none of {}", words.join(", ")))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_accepted() {
        assert!(SETTINGS.is_sorted_by(|a, b| a.name < b.name));
        for s in SETTINGS {
            assert!(s.default.is_empty() || check(s, s.default).is_ok(), "{}", s.name);
        }
    }

    #[test]
    fn a_refused_value_leaves_the_old_one() {
        let mut c = Config::new();
        c.set("session_ttl_ms", "500").unwrap();
        for bad in ["", "99", "86400001", "18446744073709551615", "18446744073709551616", "-1", "1s"] {
            let e = c.set("session_ttl_ms", bad).unwrap_err();
            assert!(e.message().starts_with("session_ttl_ms: "), "{e}");
        }
        assert_eq!(c.number("session_ttl_ms").unwrap(), 500);
        assert_eq!(c.set("sesion_ttl_ms", "500").unwrap_err().status(), Status::UnknownOption);
    }

    #[test]
    fn load_is_all_or_nothing_and_names_the_line() {
        let mut c = Config::new();
        c.load("# a node\nnode_id = a1\n\n gate.mode=log-only ").unwrap();
        assert_eq!((c.get("node_id").unwrap(), c.get("gate.mode").unwrap()), ("a1", "log-only"));
        let e = c.load("node_id = b1\ngate.mode = blok").unwrap_err();
        assert!(e.message().starts_with("line 2: gate.mode: "), "{e}");
        assert_eq!(c.get("node_id").unwrap(), "a1");
    }
}
