//! A proxy that follows a script.

use crate::{Error, ProxyKey};
use httvps_proto::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

pub(crate) struct Script;

impl Script {
    /// Runs a proxy that expects and answers by turns, then ends; the task fails when it got something else.
    pub(crate) fn run(steps: &[(&[u8], &[u8])]) -> (DuplexStream, JoinHandle<()>) {
        let steps: Vec<_> =
            steps.iter().map(|(ask, answer)| (ask.to_vec(), answer.to_vec())).collect();
        let (ours, mut theirs) = duplex(64 * 1024);
        let proxy = tokio::spawn(async move {
            for (ask, answer) in steps {
                let mut got = vec![0; ask.len()];
                theirs.read_exact(&mut got).await.unwrap();
                assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&ask));
                theirs.write_all(&answer).await.unwrap();
            }
        });
        (ours, proxy)
    }
}

/// What a stream to `target` gives up to its end, through a proxy with this key that follows a script.
pub(crate) async fn read_all(
    key: &str,
    target: &str,
    script: &[(&[u8], &[u8])],
) -> Result<Vec<u8>, Error> {
    let (key, target) = (ProxyKey::parse(key).unwrap(), Target::parse(target).unwrap());
    let (mut io, proxy) = Script::run(script);
    let reading = async {
        key.greet(&mut io).await?;
        let mut read = Vec::new();
        key.open(io, &target).await?.read_to_end(&mut read).await?;
        Ok(read)
    };
    let read = reading.await;
    proxy.await.unwrap();
    read
}
