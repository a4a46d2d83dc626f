//! The peers' servers as child processes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::stats;
use super::{Res, ports, wrong};

/// Three processes. They end with it.
pub trait Servers {
    fn processes(&self) -> Vec<u32>;

    fn cpu_us(&self) -> Res<u64> {
        Ok(stats::cpu_us(&self.processes())?)
    }

    fn memory(&self) -> Res<u64> {
        Ok(stats::memory(&self.processes())?)
    }
}

struct Server {
    child: Child,
    command: (String, Vec<String>),
    log: PathBuf,
}

impl Server {
    fn start(program: &str, args: Vec<String>, log: PathBuf) -> Res<Server> {
        let child = Server::spawn(program, &args, &log)?;
        Ok(Server { child, command: (program.to_owned(), args), log })
    }

    fn spawn(program: &str, args: &[String], log: &Path) -> Res<Child> {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        Ok(Command::new(program).args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?)
    }

    fn end(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn again(&mut self) -> Res<()> {
        self.child = Server::spawn(&self.command.0, &self.command.1, &self.log)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

pub struct Etcd {
    servers: Vec<Server>,
    pub addresses: Vec<String>,
    pub version: String,
}

impl Servers for Etcd {
    fn processes(&self) -> Vec<u32> {
        self.servers.iter().map(|s| s.child.id()).collect()
    }
}

impl Etcd {
    /// `timing`: heartbeat and election time, ms.
    pub async fn start(dir: &Path, timing: (u32, u32)) -> Res<Etcd> {
        std::fs::create_dir_all(dir)?;
        let output = Command::new("etcd").arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|l| l.strip_prefix("etcd Version: ")).unwrap_or("of no version").to_owned();
        let ports = ports(6)?;
        let url = |i: usize| format!("http://127.0.0.1:{}", ports[i]);
        let cluster: Vec<String> = (0..3).map(|i| format!("n{i}={}", url(i + 3))).collect();
        let mut servers = Vec::new();
        for i in 0..3 {
            let home = dir.join(format!("n{i}"));
            let mut args: Vec<String> = Vec::new();
            let settings = [
                ("name", format!("n{i}")),
                ("data-dir", home.display().to_string()),
                ("listen-client-urls", url(i)),
                ("advertise-client-urls", url(i)),
                ("listen-peer-urls", url(i + 3)),
                ("initial-advertise-peer-urls", url(i + 3)),
                ("initial-cluster", cluster.join(",")),
                ("initial-cluster-token", dir.display().to_string()),
                ("heartbeat-interval", timing.0.to_string()),
                ("election-timeout", timing.1.to_string()),
                ("logger", "zap".to_owned()),
                ("log-level", "error".to_owned()),
                ("quota-backend-bytes", (4u64 << 30).to_string()),
            ];
            for (name, value) in settings {
                args.extend([format!("--{name}"), value]);
            }
            servers.push(Server::start("etcd", args, dir.join(format!("n{i}.log")))?);
        }
        let etcd = Etcd { servers, addresses: (0..3).map(url).collect(), version: format!("etcd {version}") };
        super::etcd::wait(&etcd).await?;
        Ok(etcd)
    }

    pub fn kill(&mut self) {
        self.servers.iter_mut().for_each(Server::end);
    }

    pub async fn start_again(&mut self) -> Res<()> {
        self.servers.iter_mut().try_for_each(Server::again)?;
        super::etcd::wait(self).await
    }
}

pub struct Zookeeper {
    servers: Vec<Server>,
    pub addresses: Vec<String>,
    pub version: String,
}

impl Servers for Zookeeper {
    fn processes(&self) -> Vec<u32> {
        self.servers.iter().map(|s| s.child.id()).collect()
    }
}

impl Zookeeper {
    const JAR: &str = "/usr/share/java/zookeeper.jar";

    /// None where it is not installed.
    pub async fn start(dir: &Path) -> Res<Option<Zookeeper>> {
        if !Path::new(Zookeeper::JAR).exists() {
            eprintln!("ZooKeeper is left out: {} is missing (Debian's package zookeeper)", Zookeeper::JAR);
            return Ok(None);
        }
        // Beside it stands the same under a name with the version.
        let numbered = |name: &str| {
            name.strip_prefix("zookeeper-")?.strip_suffix(".jar").filter(|v| v.starts_with(char::is_numeric)).map(str::to_owned)
        };
        let files = std::fs::read_dir(Path::new(Zookeeper::JAR).parent().ok_or_else(|| wrong("no directory"))?)?;
        let version = files.filter_map(Result::ok).find_map(|f| numbered(&f.file_name().to_string_lossy())).unwrap_or_default();
        let ports = ports(9)?;
        let mut servers = Vec::new();
        for i in 0..3 {
            let home = dir.join(format!("n{i}"));
            std::fs::create_dir_all(&home)?;
            let mut lines = vec![
                "tickTime=2000".to_owned(),
                "initLimit=10".to_owned(),
                "syncLimit=5".to_owned(),
                format!("dataDir={}", home.display()),
                format!("clientPort={}", ports[i]),
                "clientPortAddress=127.0.0.1".to_owned(),
                "maxClientCnxns=0".to_owned(),
                "4lw.commands.whitelist=srvr".to_owned(),
                "admin.enableServer=false".to_owned(),
            ];
            lines.extend((0..3).map(|k| format!("server.{}=127.0.0.1:{}:{}", k + 1, ports[k + 3], ports[k + 6])));
            let settings = home.join("zoo.cfg");
            std::fs::write(&settings, lines.join("\n"))?;
            std::fs::write(home.join("myid"), (i + 1).to_string())?;
            let log = "log4j.rootLogger=ERROR, C\nlog4j.appender.C=org.apache.log4j.ConsoleAppender\nlog4j.appender.C.layout=org.apache.log4j.SimpleLayout\n";
            std::fs::write(home.join("log4j.properties"), log)?;
            let args = [
                "-Xmx1000m",
                "-cp",
                &format!("{}:{}", home.display(), Zookeeper::JAR),
                "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                &settings.display().to_string(),
            ];
            servers.push(Server::start("java", args.map(String::from).to_vec(), dir.join(format!("n{i}.log")))?);
        }
        let addresses: Vec<String> = ports[..3].iter().map(|p| format!("127.0.0.1:{p}")).collect();
        let (start, mut up) = (Instant::now(), 0);
        while up < addresses.len() {
            match super::zk::mode(&addresses[up]).await.as_deref() {
                Ok("leader" | "follower") => up += 1,
                _ if start.elapsed() > Duration::from_secs(60) => return Err(wrong("ZooKeeper did not come up within a minute")),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        Ok(Some(Zookeeper { servers, addresses, version: format!("ZooKeeper {version}") }))
    }
}
