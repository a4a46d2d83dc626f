//! The settings of a cluster member and of a client: what they say, and where they contradict each other.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Env;
use crate::base::{Clock, Config, Error, NodeId, Result, SystemRng};
use crate::client;
use crate::consensus::Timing;
use crate::engine::RaftOptions;
use crate::ledger::Params;
use crate::net::{Party, Security, Tcp, TcpOptions, Tls, TlsFiles};

/// Whether these settings make the node a member of a cluster.
pub(super) fn is_member(config: &Config) -> Result<bool> {
    Ok(!config.get("listen")?.is_empty() || !config.get("peers")?.is_empty() || !config.get("seeds")?.is_empty())
}

/// An address in its two parts.
fn split<'a>(setting: &str, address: &'a str) -> Result<(&'a str, u16)> {
    let wrong = |what: &str| Error::invalid(setting, format_args!("{:?}: {what}", address.escape_default().to_string()));
    let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("expected host:port"))?;
    let port = port.parse::<u16>().map_err(|_| wrong("the port is no number from 0 to 65535"))?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if bare.is_empty() || bare.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(wrong("the host is missing or holds a blank"));
    }
    if bare.contains(':') && bare.len() == host.len() {
        return Err(wrong("an IPv6 address stands in brackets"));
    }
    Ok((bare, port))
}

/// An address that others dial.
fn dialled<'a>(setting: &str, address: &'a str) -> Result<&'a str> {
    let (host, port) = split(setting, address)?;
    if port == 0 {
        return Err(Error::invalid(setting, format_args!("{address}: nobody can reach port 0")));
    }
    if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(Error::invalid(setting, format_args!("{address}: is where to listen, not where to be reached")));
    }
    Ok(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Names and addresses of the founders.
fn founders(config: &Config, node: &NodeId) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for peer in list(config.get("peers")?) {
        let (name, address) = peer
            .split_once('=')
            .ok_or_else(|| Error::invalid("peers", format_args!("{:?}: expected name=host:port", peer.escape_default().to_string())))?;
        let (name, address) = (name.trim(), address.trim());
        NodeId::new(name).map_err(|e| Error::invalid("peers", e.message()))?;
        dialled("peers", address)?;
        if found.iter().any(|(n, _)| n == name) {
            return Err(Error::invalid("peers", format_args!("{name} stands twice")));
        }
        if let Some((other, _)) = found.iter().find(|(_, a)| a == address) {
            return Err(Error::invalid("peers", format_args!("{other} and {name} have the same address {address}")));
        }
        found.push((name.to_owned(), address.to_owned()));
    }
    if !found.is_empty() && found.iter().all(|(name, _)| name != node.as_str()) {
        return Err(Error::invalid("peers", format_args!("node_id {node} is not among them")));
    }
    Ok(found)
}

fn seeds(config: &Config) -> Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for seed in list(config.get("seeds")?) {
        dialled("seeds", seed)?;
        if !found.iter().any(|s| s == seed) {
            found.push(seed.to_owned());
        }
    }
    Ok(found)
}

fn timing(config: &Config) -> Result<Timing> {
    let ms = |name| config.number(name).map(Duration::from_millis);
    let timing = Timing { heartbeat: ms("heartbeat_ms")?, election_min: ms("election_min_ms")?, election_max: ms("election_max_ms")? };
    if timing.election_min <= timing.heartbeat {
        let (min, beat) = (timing.election_min.as_millis(), timing.heartbeat.as_millis());
        return Err(Error::invalid("election_min_ms", format_args!("{min} is not above heartbeat_ms = {beat}")));
    }
    if timing.election_max < timing.heartbeat * 3 {
        let (max, beat) = (timing.election_max.as_millis(), timing.heartbeat.as_millis());
        return Err(Error::invalid("election_max_ms", format_args!("{max} is less than three times heartbeat_ms = {beat}")));
    }
    if timing.election_max <= timing.election_min {
        let (max, min) = (timing.election_max.as_millis(), timing.election_min.as_millis());
        return Err(Error::invalid("election_max_ms", format_args!("{max} is not above election_min_ms = {min}")));
    }
    let ttl = ms("session_ttl_ms")?;
    if ttl < timing.election_max * 4 {
        let (ttl, max) = (ttl.as_millis(), timing.election_max.as_millis());
        let why = format_args!("{ttl} is less than four times election_max_ms = {max}: a change of leader would cost sessions");
        return Err(Error::invalid("session_ttl_ms", why));
    }
    Ok(timing)
}

fn security(config: &Config, party: &Party, clock: &Arc<dyn Clock>) -> Result<Security> {
    let files = [config.get("tls_ca")?, config.get("tls_cert")?, config.get("tls_key")?];
    let insecure = config.flag("insecure")?;
    if files.iter().all(|f| f.is_empty()) {
        return Ok(if insecure { Security::Insecure } else { Security::Loopback });
    }
    for (name, file) in ["tls_ca", "tls_cert", "tls_key"].iter().zip(files) {
        if file.is_empty() {
            return Err(Error::invalid(name, "is missing: TLS needs tls_ca, tls_cert and tls_key"));
        }
    }
    if insecure {
        return Err(Error::invalid("insecure", "cannot be with TLS files: choose one"));
    }
    let [authorities, certificate, key] = files.map(PathBuf::from);
    let tls = Tls::open(TlsFiles { authorities, certificate, key }, config.get("cluster_id")?, party, clock.clone())?;
    Ok(Security::Tls(Arc::new(tls)))
}

/// Plain text stays within the machine unless the weaker mode is chosen by name.
fn check_plain<'a>(setting: &str, addresses: impl IntoIterator<Item = &'a str>) -> Result<()> {
    for address in addresses {
        let (host, _) = split(setting, address)?;
        if !is_loopback(host) {
            let why = format_args!("{address} is not a loopback address: give tls_ca, tls_cert and tls_key, or choose insecure = true");
            return Err(Error::invalid(setting, why));
        }
    }
    Ok(())
}

/// What the member is opened with.
pub(super) fn options(config: &Config, named: Option<&NodeId>, params: Params, clock: &Arc<dyn Clock>) -> Result<RaftOptions> {
    let listen = config.get("listen")?;
    if listen.is_empty() {
        let given = if config.get("peers")?.is_empty() { "seeds" } else { "peers" };
        return Err(Error::invalid("listen", format_args!("is missing, though {given} is given: where is this member to be reached?")));
    }
    let (listen_host, listen_port) = split("listen", listen)?;
    let node = named.ok_or_else(|| Error::invalid("node_id", "is missing: a member of a cluster has a name"))?;
    let data_dir = config.get("data_dir")?;
    if data_dir.is_empty() {
        return Err(Error::invalid("data_dir", "is missing: a member of a cluster keeps its log on disk"));
    }
    let (founders, seeds) = (founders(config, node)?, seeds(config)?);
    let mut advertise = config.get("advertise")?.to_owned();
    match (founders.is_empty(), seeds.is_empty()) {
        (false, false) => return Err(Error::invalid("seeds", "cannot be with peers: a node founds a cluster or joins one")),
        (true, true) => return Err(Error::invalid("listen", "needs peers (to found a cluster) or seeds (to join one)")),
        _ => {}
    }
    if !config.get("join_token")?.is_empty() && seeds.is_empty() {
        return Err(Error::invalid("join_token", "is only shown to seeds, and there are none"));
    }
    if !advertise.is_empty() {
        dialled("advertise", &advertise)?;
    }
    if let Some((_, own)) = founders.iter().find(|(name, _)| name == node.as_str()) {
        if !advertise.is_empty() && advertise != *own {
            return Err(Error::invalid("advertise", format_args!("{advertise} is not this node's address in peers, {own}")));
        }
        if listen_port == 0 {
            return Err(Error::invalid(
                "listen",
                format_args!("{listen}: the others look for this node at {own}, so the port must be known"),
            ));
        }
        advertise.clone_from(own);
    } else if advertise.is_empty() && listen_host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(Error::invalid("advertise", format_args!("is missing: nobody can reach {listen}")));
    }
    let timing = timing(config)?;
    let security = security(config, &Party::node(node), clock)?;
    if matches!(security, Security::Loopback) {
        check_plain("listen", [listen])?;
        check_plain("peers", founders.iter().map(|(_, a)| a.as_str()))?;
        check_plain("seeds", seeds.iter().map(String::as_str))?;
        check_plain("advertise", Some(advertise.as_str()).filter(|a| !a.is_empty()))?;
    }
    let tokens_required = match config.get("join_tokens")? {
        "auto" => !matches!(security, Security::Loopback),
        choice => choice == "required",
    };
    let join_token = Some(config.get("join_token")?).filter(|t| !t.is_empty()).map(str::to_owned);
    Ok(RaftOptions {
        data_dir: Path::new(data_dir).to_owned(),
        create: config.flag("data_dir_create")?,
        cluster: config.get("cluster_id")?.to_owned(),
        node: node.clone(),
        listen: listen.to_owned(),
        advertise,
        founders,
        seeds,
        join_token,
        tokens_required,
        security,
        params,
        timing,
        timeout: Duration::from_millis(config.number("request_timeout_ms")?),
        segment_bytes: config.number("wal_segment_bytes")?,
        snapshot_bytes: config.number("snapshot_bytes")?,
    })
}

/// What a client is opened with.
pub(super) fn client(config: &Config, name: &NodeId, env: &mut Env) -> Result<client::Options> {
    for other in ["advertise", "data_dir", "join_token", "listen", "peers", "seeds"] {
        if !config.get(other)?.is_empty() {
            return Err(Error::invalid(other, "cannot be with connect: a process is a member of the cluster or its client"));
        }
    }
    let mut addresses: Vec<String> = Vec::new();
    for address in list(config.get("connect")?) {
        dialled("connect", address)?;
        if !addresses.iter().any(|a| a == address) {
            addresses.push(address.to_owned());
        }
    }
    if addresses.is_empty() {
        return Err(Error::invalid("connect", "names no address"));
    }
    let party = Party::Client(name.as_str().to_owned());
    let security = security(config, &party, &env.clock)?;
    if matches!(security, Security::Loopback) {
        check_plain("connect", addresses.iter().map(String::as_str))?;
    }
    Ok(client::Options {
        cluster: config.get("cluster_id")?.to_owned(),
        name: name.as_str().to_owned(),
        boot: env.rng.next_u128() | 1,
        addresses,
        transport: Arc::new(Tcp(TcpOptions::default())),
        security,
        rng: Box::new(SystemRng::new()?),
        timeout: Duration::from_millis(config.number("request_timeout_ms")?),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::base::{Status, SystemClock};

    fn told(settings: &[(&str, &str)]) -> Error {
        let mut config = Config::new();
        let last: std::collections::BTreeMap<_, _> = settings.iter().copied().collect();
        for (name, value) in last.into_iter().filter(|(_, value)| !value.is_empty()) {
            config.set(name, value).unwrap();
        }
        let named = match config.get("node_id").unwrap() {
            "" => None,
            id => Some(NodeId::new(id).unwrap()),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        options(&config, named.as_ref(), Params::default(), &clock).map(drop).unwrap_err()
    }

    #[test]
    fn contradictions_are_named() {
        const GOOD: [(&str, &str); 4] =
            [("node_id", "a"), ("data_dir", "/nowhere"), ("listen", "127.0.0.1:7001"), ("peers", "a=127.0.0.1:7001,b=127.0.0.1:7002")];
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("listen: ", &[("listen", "")]),
            ("listen: ", &[("peers", "")]),
            ("listen: ", &[("listen", "127.0.0.1")]),
            ("listen: ", &[("listen", "127.0.0.1:99999")]),
            ("listen: ", &[("listen", "127.0.0.1:0")]),
            ("listen: ", &[("listen", "0.0.0.0:7001")]),
            ("listen: ", &[("listen", "::1:7001")]),
            ("node_id: ", &[("node_id", "")]),
            ("data_dir: ", &[("data_dir", "")]),
            ("peers: ", &[("node_id", "c")]),
            ("peers: ", &[("peers", "a=127.0.0.1:7001,a=127.0.0.1:7002")]),
            ("peers: ", &[("peers", "a=127.0.0.1:7001,b=127.0.0.1:7001")]),
            ("peers: ", &[("peers", "a=127.0.0.1:7001,b")]),
            ("peers: ", &[("peers", "a=127.0.0.1:7001,b=10.0.0.1:7001")]),
            ("peers: ", &[("peers", "a=127.0.0.1:7001,b=127.0.0.1:0")]),
            ("peers: ", &[("peers", "a=127.0.0.1:7001,b=0.0.0.0:7002")]),
            ("seeds: ", &[("seeds", "127.0.0.1:7002")]),
            ("seeds: ", &[("peers", ""), ("seeds", "elsewhere:7002")]),
            ("advertise: ", &[("advertise", "127.0.0.1:7009")]),
            ("advertise: ", &[("peers", ""), ("seeds", "127.0.0.1:7002"), ("insecure", "true"), ("listen", "0.0.0.0:7001")]),
            ("join_token: ", &[("join_token", "x")]),
            ("election_min_ms: ", &[("heartbeat_ms", "120")]),
            ("election_max_ms: ", &[("heartbeat_ms", "87")]),
            ("election_max_ms: ", &[("election_min_ms", "260")]),
            ("session_ttl_ms: ", &[("session_ttl_ms", "1039")]),
            ("tls_key: ", &[("tls_cert", "/c"), ("tls_ca", "/a")]),
            ("insecure: ", &[("tls_cert", "/c"), ("tls_ca", "/a"), ("tls_key", "/k"), ("insecure", "true")]),
        ];
        for (start, over) in cases {
            let mut settings = GOOD.to_vec();
            settings.extend_from_slice(over);
            let refused = told(&settings);
            assert_eq!(refused.status(), Status::InvalidArgument, "{over:?}: {refused}");
            assert!(refused.message().starts_with(start), "{over:?}: {refused}");
        }
    }
}
