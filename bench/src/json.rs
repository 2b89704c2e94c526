//! A policy service in JSON over HTTP/1.1 that is asked and told what the example in Rust is, and allows everything. As
//! little of a server as will do: its own cost is not what is measured.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const HELLO: &str = r#"{"name":"bench","wants":[{"hook":"HOOK_AUTH_CONNECT"},{"hook":"HOOK_AUTH_PUBLISH"},{"hook":"HOOK_AUTH_SUBSCRIBE"},{"hook":"HOOK_CONNECT"},{"hook":"HOOK_PUBLISH"},{"hook":"HOOK_SUBSCRIBE"},{"hook":"HOOK_DISCONNECT"}]}"#;

pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // It ends with its connection, or with the program.
            tokio::spawn(answer_all(stream));
        }
    })
}

/// Ends with the connection; `None`: it broke, or what came is no request.
async fn answer_all(mut stream: TcpStream) -> Option<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = end_of_request(&read) {
                break end;
            }
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        };
        let request = read.get(..end)?;
        let path = request.split(|byte| *byte == b' ').nth(1)?;
        let body = match path {
            b"/Hello" => HELLO.to_owned(),
            b"/AuthConnect" | b"/AuthPublish" => r#"{"allow":{}}"#.to_owned(),
            b"/AuthSubscribe" => {
                let body = request.windows(4).position(|four| four == b"\r\n\r\n")?;
                let question: serde_json::Value = serde_json::from_slice(request.get(body + 4..)?).ok()?;
                let filters = question["filters"].as_array().map_or(0, Vec::len);
                format!(r#"{{"verdicts":[{}]}}"#, vec![r#"{"allow":{}}"#; filters].join(","))
            }
            _ => "{}".to_owned(),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        read.drain(..end);
    }
}

/// Bytes of the request that is whole.
fn end_of_request(read: &[u8]) -> Option<usize> {
    let head = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(read.get(..head)?).ok()?;
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let end = head + length.unwrap_or(0);
    (read.len() >= end).then_some(end)
}
