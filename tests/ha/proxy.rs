//! A TCP proxy before a server: cut off without a word, as a network does it, and mended.

use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// While it is cut nothing passes, and nobody is told: connections stay open, new ones are taken and not answered.
pub struct Proxy {
    pub port: u16,
    cut: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().port();
        let cut = Arc::new(watch::Sender::new(false));
        let state = cut.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = state.clone();
                tokio::spawn(async move {
                    let _ = whole(&state).await;
                    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let (mut cr, mut cw) = client.into_split();
                    let (mut sr, mut sw) = server.into_split();
                    tokio::select! {
                        () = pump(&mut cr, &mut sw, &state) => {}
                        () = pump(&mut sr, &mut cw, &state) => {}
                    }
                });
            }
        });
        Proxy { port: here, cut, task }
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn whole(state: &watch::Sender<bool>) -> Result<(), watch::error::RecvError> {
    state.subscribe().wait_for(|cut| !*cut).await.map(drop)
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    state: &watch::Sender<bool>,
) {
    let mut buffer = vec![0u8; 16 * 1024];
    loop {
        let Ok(n @ 1..) = from.read(&mut buffer).await else { return };
        if whole(state).await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
