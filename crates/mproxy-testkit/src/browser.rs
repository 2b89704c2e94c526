//! A page in a real Chromium, steered over its DevTools protocol: keys are pressed as a person presses them, and what the
//! page then shows is asked with JavaScript.

use crate::PATIENCE;
use crate::certificates::Folder;
use crate::foreign::chromium;
use crate::process::Process;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// A browser with one page.
#[derive(Debug)]
pub struct BrowserPage {
    socket: WebSocketStream<TcpStream>,
    session: Option<String>,
    calls: u64,
    // Both end with it.
    _chromium: Process,
    _home: Folder,
}

impl BrowserPage {
    /// A browser of this size that shows `url`.
    pub async fn open(url: &str, width: u32, height: u32) -> Self {
        let home = Folder::default();
        let mut command = chromium(home.path(), "about:blank");
        command.arg("--remote-debugging-port=0");
        let mut chromium = Process::start("chromium", command);
        let address = chromium.line_where("the address of its DevTools", |line| {
            line.split_once("DevTools listening on ws://").map(|(_, address)| address.trim().to_owned())
        });
        let address = address.await.unwrap_or_else(|error| panic!("{error}"));
        let host = address.split('/').next().unwrap_or_default();
        let stream = TcpStream::connect(host).await.unwrap_or_else(|error| panic!("{host}: {error}"));
        let (socket, _) = client_async(format!("ws://{address}"), stream)
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        let mut page = Self { socket, session: None, calls: 0, _chromium: chromium, _home: home };
        let targets = page.call("Target.getTargets", json!({})).await;
        let targets = targets["targetInfos"].as_array().map(Vec::as_slice).unwrap_or_default();
        let target = targets.iter().find(|target| target["type"] == "page");
        let id = target.map(|target| target["targetId"].clone());
        let attached = page.call("Target.attachToTarget", json!({ "targetId": id, "flatten": true })).await;
        page.session = attached["sessionId"].as_str().map(str::to_owned);
        page.resize(width, height).await;
        page.call("Page.navigate", json!({ "url": url })).await;
        page.until("document.readyState === 'complete'").await;
        page
    }

    /// Its window is so large from now on.
    pub async fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// The value of an expression in the page.
    pub async fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", asked).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        // While a page is loaded there may be nothing yet that an expression could speak of.
        let asked =
            format!("(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()");
        while self.value(&asked).await != true {
            if Instant::now() > end {
                let shown = self.value("document.body.innerText").await;
                panic!("not true in time: {expression}; the page shows: {shown}");
            }
            sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Presses a key: `Tab`, `Enter`, `Escape`.
    pub async fn press(&mut self, key: &str) {
        let number = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            other => panic!("no such key here: {other}"),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": number, "text": text });
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Types a text where the focus is.
    pub async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        let answered = async {
            self.socket.send(Message::text(call.to_string())).await.ok()?;
            loop {
                let message = self.socket.next().await?.ok()?;
                let answer: Value = serde_json::from_str(message.to_text().ok()?).ok()?;
                // What happens meanwhile is told, too.
                if answer["id"] == self.calls {
                    return Some(answer);
                }
            }
        };
        let answer = timeout(PATIENCE, answered).await.ok().flatten();
        let answer = answer.unwrap_or_else(|| panic!("{method}: the browser does not answer"));
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }
}
