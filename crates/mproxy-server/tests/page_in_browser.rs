//! The page of the admin port in a real browser, as an operator uses it: by keyboard, on a small screen, with a wrong token.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::browser::BrowserPage;
use mproxy_testkit::wire::WireClient;
use serde_json::Value;
use support::{Proxy, VERSIONS};

/// mproxy with two clients and their broker, and its page at this view.
async fn page_of(
    view: &str,
    width: u32,
    variables: &[(&str, &str)],
) -> (Proxy, (Vec<WireClient>, RecordingBroker), BrowserPage) {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::with(broker.addr(), variables).await;
    let mut clients = Vec::new();
    for (version, name) in VERSIONS.into_iter().zip(["lamp", "desk"]) {
        clients.push(proxy.login(version, name).await);
    }
    let page = BrowserPage::open(&format!("http://{}/#{view}", proxy.admin), width, 800).await;
    (proxy, (clients, broker), page)
}

const FOCUSED: &str = "document.activeElement.textContent";

fn is_open(dialog: &str) -> String {
    format!("document.getElementById('{dialog}').open")
}

fn is_closed(dialog: &str) -> String {
    format!("!{}", is_open(dialog))
}

/// Goes to the row of this client by the Tab key alone.
async fn go_to_row(page: &mut BrowserPage, name: &str) {
    page.until("document.querySelectorAll('#list button.link').length === 2").await;
    page.value("document.querySelector('#search button').focus()").await;
    for _ in 0..20 {
        if page.value(FOCUSED).await == name {
            return;
        }
        page.press("Tab").await;
    }
    panic!("no row of {name} by Tab");
}

#[tokio::test]
async fn focus_returns_to_the_row_that_opened_a_dialog() {
    let (proxy, _peers, mut page) = page_of("sessions", 1280, &[]).await;
    go_to_row(&mut page, "desk").await;
    for _ in 0..2 {
        page.press("Enter").await;
        page.until(&is_open("detail")).await;
        page.press("Escape").await;
        page.until(&is_closed("detail")).await;
        page.until(&format!("{FOCUSED} === 'desk'")).await;
    }
    // Rows are made anew when the table is drawn.
    page.value("window.dispatchEvent(new Event('resize'))").await;
    page.until(&format!("{FOCUSED} === 'desk'")).await;
    page.press("Enter").await;
    page.until(&is_open("detail")).await;
    page.value("document.querySelector('#kick [value=kick]').click()").await;
    page.until(&is_open("confirm")).await;
    page.press("Escape").await;
    page.until(&is_closed("confirm")).await;
    page.until(&format!("{FOCUSED} === 'desk'")).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_session_is_shown_in_words_from_the_top_and_disconnected_with_a_text() {
    let rules = mproxy_testkit::certificates::Folder::default();
    let path = rules.write("rules.toml", "[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n");
    let path = path.display().to_string();
    let (proxy, (mut clients, _broker), mut page) =
        page_of("sessions", 1280, &[("MPROXY_ACL_FILE", &path)]).await;
    go_to_row(&mut page, "desk").await;
    page.press("Enter").await;
    page.until(&is_open("detail")).await;
    let shown = page.value("document.getElementById('fields').innerText").await;
    let shown = shown.as_str().unwrap_or_default();
    for part in
        ["Client id\ndesk", "MQTT version\n5.0", "Waiting packets", "Subscriptions", "Publishes in flight"]
    {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    assert!(!shown.contains('{') && !shown.contains("live waiting"), "{shown}");
    assert_eq!(page.value("document.getElementById('fields').scrollTop").await, 0);
    assert_eq!(page.value("document.activeElement.id").await, "detail-title");

    page.value("document.querySelector('#kick [value=kick]').click()").await;
    page.until(&is_open("confirm")).await;
    page.value("document.getElementById('kick-text').focus()").await;
    page.write("come back later").await;
    page.press("Enter").await;
    let goodbye = clients[1].packet().await;
    assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x98), "{goodbye:02x?}");
    assert!(goodbye.ends_with(b"come back later"), "{goodbye:02x?}");
    page.until("document.getElementById('notice').textContent === 'desk was disconnected.'").await;
    proxy.stop().await;
}

#[tokio::test]
async fn what_is_done_about_a_session_that_has_gone_is_answered() {
    let (proxy, (mut clients, _broker), mut page) = page_of("sessions", 1280, &[]).await;
    go_to_row(&mut page, "desk").await;
    page.press("Enter").await;
    page.until(&is_open("detail")).await;
    drop(clients.pop());
    support::until("desk is gone", async || proxy.sessions().await.len() == 1).await;
    page.value("document.querySelector('#kick [value=kick]').click()").await;
    page.until(&is_open("confirm")).await;
    page.value("document.querySelector('#confirm [value=yes]').click()").await;
    page.until("document.getElementById('notice').textContent === 'The session of desk has ended already.'")
        .await;
    page.until("document.querySelectorAll('#list button.link').length === 1").await;

    drop(clients.pop());
    support::until("lamp is gone", async || proxy.sessions().await.is_empty()).await;
    page.value("document.querySelector('#list button.link').click()").await;
    page.until("document.getElementById('notice').textContent === 'That session has ended already.'").await;
    assert_eq!(page.value("document.getElementById('problem').hidden").await, true);
    proxy.stop().await;
}

#[tokio::test]
async fn a_wrong_token_is_said_to_be_wrong() {
    let (proxy, _peers, mut page) = page_of("sessions", 1280, &[("MPROXY_ADMIN_TOKEN", "s3cret")]).await;
    page.until(&is_open("login")).await;
    let told = "document.getElementById('login-problem').textContent";
    assert_eq!(page.value(told).await, "");
    page.write("wrong").await;
    page.press("Enter").await;
    page.until(&format!("{told}.includes('does not accept this token') && {}", is_open("login"))).await;
    page.write("s3cret").await;
    page.press("Enter").await;
    page.until("document.querySelectorAll('#list button.link').length === 2").await;
    assert_eq!(page.value(&is_closed("login")).await, true);
    proxy.stop().await;
}

#[tokio::test]
async fn no_view_is_wider_than_its_window_and_the_order_is_marked() {
    let (proxy, _peers, mut page) = page_of("overview", 1280, &[]).await;
    page.until("document.querySelectorAll('.tile').length === 8").await;
    for width in [1280, 768, 375] {
        page.resize(width, 800).await;
        for view in ["overview", "sessions", "tap", "refusals", "policy", "config"] {
            page.value(&format!("location.hash = '#{view}'")).await;
            page.until(&format!("!document.getElementById('{view}').hidden")).await;
            let wide = page.value("document.documentElement.scrollWidth").await;
            assert!(wide.as_u64().is_some_and(|wide| wide <= width.into()), "{view} at {width}: {wide}");
        }
    }
    page.resize(1280, 800).await;
    page.value("location.hash = '#overview'").await;
    // A tile or a table by itself in the last row, and a table that has to be scrolled.
    let alone = "[...document.querySelectorAll('.tiles, .columns')].map((box) => \
                 box.children.length % getComputedStyle(box).gridTemplateColumns.split(' ').length)";
    assert_eq!(page.value(alone).await, Value::from(vec![0, 0]));
    let scrolled =
        "[...document.querySelectorAll('.columns > div')].every((one) => one.scrollWidth <= one.clientWidth)";
    page.until(scrolled).await;
    let marked = "[...document.querySelectorAll('#list th')].filter((th) => th.ariaSort !== 'none').map((th) => th.innerText)";
    page.value("location.hash = '#sessions'").await;
    page.until("!document.getElementById('sessions').hidden").await;
    let marked = page.value(marked).await;
    assert!(marked[0].as_str().is_some_and(|head| head.starts_with("Since")), "{marked}");
    assert_eq!(marked.as_array().map(Vec::len), Some(1));
    proxy.stop().await;
}
