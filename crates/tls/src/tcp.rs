//! What TCP itself is asked to notice.

use std::io;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::limits::{KEEP_ALIVE_INTERVAL, PEER_SILENCE, TCP_KEEP_ALIVE_PAUSE, TCP_KEEP_ALIVE_QUESTIONS};

/// Sends small messages at once, and gives the connection up when the other end is not there any more: when it answers no keep-alive,
/// or acknowledges nothing of what was sent for [`PEER_SILENCE`] (`TCP_USER_TIMEOUT`, RFC 5482).
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEP_ALIVE_INTERVAL)
            .with_interval(TCP_KEEP_ALIVE_PAUSE)
            .with_retries(TCP_KEEP_ALIVE_QUESTIONS),
    )?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(PEER_SILENCE))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_given_up_when_nobody_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEP_ALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), TCP_KEEP_ALIVE_PAUSE);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), TCP_KEEP_ALIVE_QUESTIONS);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PEER_SILENCE));
    }
}
