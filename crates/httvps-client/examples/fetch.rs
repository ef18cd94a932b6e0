//! Fetches a page through a gateway, over one stream of one session.
//!
//! ```text
//! cargo run --example fetch -- wss://vpn.example/ws DEVICE_ID TOKEN_FILE example.org:80 [CA_FILE]
//! ```

use httvps_client::{Config, Secret, Target, Trust, connect};
use std::error::Error;
use std::io::Write;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [gateway, device_id, token_file, target, ca_file @ ..] = &arguments[..] else {
        return Err("arguments: GATEWAY_URL DEVICE_ID TOKEN_FILE HOST:PORT [CA_FILE]".into());
    };
    let token = Secret::new(std::fs::read_to_string(token_file)?.trim().to_owned());
    let mut config = Config::new(gateway.parse()?, device_id, token);
    if let Some(file) = ca_file.first() {
        config.trust = Trust::from_pem_file(Path::new(file))?;
    }

    let session = connect(&config).await?;
    let target: Target = target.parse()?;
    let mut stream = session.open(&target).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.host);
    stream.write_all(request.as_bytes()).await?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page).await?;
    std::io::stdout().write_all(&page)?;
    session.close().await;
    Ok(())
}
