//! ZooKeeper's protocol, as much as creating and deleting takes; one connection a client, one thread.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::servers::{Servers, Zookeeper};
use super::stats::Load;
use super::{Res, latencies, wrong};

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const EPHEMERAL: i32 = 1;
const ALREADY_THERE: i32 = -110;

struct Connection {
    stream: BufReader<TcpStream>,
    number: i32,
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as i32).to_be_bytes());
    out.extend(bytes);
}

fn word(bytes: &[u8], at: usize) -> Res<i32> {
    let four = bytes.get(at..at + 4).ok_or_else(|| wrong("a short answer of ZooKeeper's"))?;
    Ok(i32::from_be_bytes(four.try_into()?))
}

impl Connection {
    async fn open(address: &str) -> Res<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream: BufReader::new(stream), number: 0 };
        let mut hello = Vec::new();
        hello.extend(0i32.to_be_bytes());
        hello.extend(0i64.to_be_bytes());
        hello.extend(40_000i32.to_be_bytes());
        hello.extend(0i64.to_be_bytes());
        text(&mut hello, &[0; 16]);
        hello.push(0);
        connection.send(&hello).await?;
        let answer = connection.frame().await?;
        if word(&answer, 4)? <= 0 {
            return Err(wrong("ZooKeeper refuses a session"));
        }
        Ok(connection)
    }

    async fn send(&mut self, body: &[u8]) -> Res<()> {
        let mut frame = Vec::new();
        text(&mut frame, body);
        Ok(self.stream.get_mut().write_all(&frame).await?)
    }

    async fn frame(&mut self) -> Res<Vec<u8>> {
        let length = self.stream.read_i32().await?;
        let mut bytes = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// The error number of the answer, 0 for none.
    async fn ask(&mut self, what: i32, rest: &[u8]) -> Res<i32> {
        self.number += 1;
        let mut body = Vec::new();
        body.extend(self.number.to_be_bytes());
        body.extend(what.to_be_bytes());
        body.extend(rest);
        self.send(&body).await?;
        loop {
            let answer = self.frame().await?;
            if word(&answer, 0)? == self.number {
                return word(&answer, 12);
            }
        }
    }

    async fn create(&mut self, path: &str, flags: i32) -> Res<i32> {
        let mut rest = Vec::new();
        text(&mut rest, path.as_bytes());
        text(&mut rest, b"owner-00");
        rest.extend(1i32.to_be_bytes());
        rest.extend(31i32.to_be_bytes());
        text(&mut rest, b"world");
        text(&mut rest, b"anyone");
        rest.extend(flags.to_be_bytes());
        self.ask(CREATE, &rest).await
    }

    async fn delete(&mut self, path: &str) -> Res<i32> {
        let mut rest = Vec::new();
        text(&mut rest, path.as_bytes());
        rest.extend((-1i32).to_be_bytes());
        self.ask(DELETE, &rest).await
    }
}

/// `leader` or `follower`, once it is one.
pub async fn mode(address: &str) -> Res<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"srvr").await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(2), stream.read_to_string(&mut answer)).await??;
    answer.lines().find_map(|l| l.strip_prefix("Mode: ")).map(str::to_owned).ok_or_else(|| wrong("no mode"))
}

pub async fn pairs(zookeeper: &Zookeeper, clients: usize, seconds: f64) -> Res<Load> {
    let mut connections = Vec::new();
    for i in 0..clients {
        connections.push(Connection::open(&zookeeper.addresses[i % 3]).await?);
    }
    for path in ["/bench".to_owned()].into_iter().chain((0..clients).map(|i| format!("/bench/{i}"))) {
        match connections[0].create(&path, 0).await? {
            0 | ALREADY_THERE => {}
            error => return Err(wrong(format!("ZooKeeper: creating {path}: {error}"))),
        }
    }
    let before = zookeeper.cpu_us()?;
    let (start, time) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut tasks = JoinSet::new();
    for (i, mut connection) in connections.into_iter().enumerate() {
        tasks.spawn(async move {
            let (path, mut ns) = (format!("/bench/{i}/lock"), Vec::new());
            while start.elapsed() < time {
                let one = Instant::now();
                if connection.create(&path, EPHEMERAL).await? != 0 || connection.delete(&path).await? != 0 {
                    return Err(wrong("ZooKeeper: not granted"));
                }
                ns.push(one.elapsed().as_nanos() as u64);
            }
            Res::Ok(ns)
        });
    }
    let mut ns = Vec::new();
    while let Some(done) = tasks.join_next().await {
        ns.append(&mut done??);
    }
    let (rate, cpu) = (ns.len() as f64 / start.elapsed().as_secs_f64(), (zookeeper.cpu_us()? - before) as f64 / ns.len() as f64);
    Ok(Load { rate, cpu, ..latencies(ns) })
}
