//! Socket options, and descriptors that stay clear of 0, 1 and 2: a host that closes those would else write its log into a
//! connection.

#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use tokio::net::{TcpSocket, TcpStream};

use crate::base::{Error, Result};

use super::transport::TcpOptions;

fn os_error(what: &str) -> Error {
    Error::io(what, &std::io::Error::last_os_error())
}

/// The same open file under a number of 3 or more.
fn raised(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(fd);
    }
    // SAFETY: duplicates a descriptor that we own; a non-negative result is a new one of ours.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(os_error("duplicating a socket"));
    }
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// A socket for the family of `address`.
pub(super) fn stream_socket(address: SocketAddr) -> Result<TcpSocket> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: makes a descriptor that is ours alone.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(os_error("making a socket"));
    }
    // SAFETY: see above.
    let fd = raised(unsafe { OwnedFd::from_raw_fd(fd) })?;
    Ok(TcpSocket::from_std_stream(std::net::TcpStream::from(fd)))
}

fn set(fd: RawFd, level: i32, option: i32, value: i32, what: &str) -> Result<()> {
    // SAFETY: the pointer and the length are those of a live i32; the descriptor is open.
    let failed = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t) };
    if failed == 0 { Ok(()) } else { Err(os_error(what)) }
}

/// Sets the options of a connected socket and raises its descriptor where needed.
pub(super) fn prepare(stream: TcpStream, options: &TcpOptions) -> Result<TcpStream> {
    let stream = if stream.as_raw_fd() > libc::STDERR_FILENO {
        stream
    } else {
        let failed = |e: std::io::Error| Error::io("raising a socket's descriptor", &e);
        let raised = raised(stream.into_std().map_err(failed)?.into())?;
        TcpStream::from_std(raised.into()).map_err(failed)?
    };
    let fd = stream.as_raw_fd();
    let seconds = i32::try_from(options.keepalive.as_secs()).unwrap_or(i32::MAX).max(1);
    let user_timeout = i32::try_from(options.user_timeout.as_millis()).unwrap_or(i32::MAX);
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1, "TCP_NODELAY")?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, user_timeout, "TCP_USER_TIMEOUT")?;
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1, "SO_KEEPALIVE")?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds, "TCP_KEEPIDLE")?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, seconds, "TCP_KEEPINTVL")?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3, "TCP_KEEPCNT")?;
    Ok(stream)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn get(fd: RawFd, level: i32, option: i32) -> i32 {
        let (mut value, mut size) = (0i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: both pointers are live and of the size given.
        assert_eq!(unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &mut size) }, 0);
        value
    }

    #[test]
    fn options_and_descriptors() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            // SAFETY: the test process has no use for its standard input.
            unsafe { libc::close(0) };
            let socket = stream_socket(at).unwrap();
            assert!(socket.as_raw_fd() > 2);
            let dialled = prepare(socket.connect(at).await.unwrap(), &TcpOptions::default()).unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            assert_eq!(accepted.as_raw_fd(), 0, "the kernel gives the lowest number");
            let accepted = prepare(accepted, &TcpOptions::default()).unwrap();
            for fd in [dialled.as_raw_fd(), accepted.as_raw_fd()] {
                assert!(fd > 2);
                assert_eq!(get(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
                assert_eq!(get(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT), 10_000);
                assert_eq!(get(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
                // SAFETY: reads a flag of an open descriptor.
                assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
            }
            assert!(dialled.peer_addr().is_ok() && accepted.peer_addr().is_ok());
        });
    }
}
