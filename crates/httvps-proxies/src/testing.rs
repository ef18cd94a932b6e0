//! A proxy that follows a script.

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
