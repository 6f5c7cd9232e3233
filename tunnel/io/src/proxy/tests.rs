//! What a proxy refuses to start with, and what it says of itself.

use super::*;

const CREDENTIAL: &str = "0123456789abcdef";

async fn start(listen: &str, credential: &str) -> Result<Proxy, ProxyError> {
    let config = ProxyConfig::new(listen.parse().expect(listen), SecretString::from(credential));
    let (_, routes) = watch::channel(Arc::default());
    let (_, dialer) = watch::channel(None);
    Proxy::start(config, routes, dialer).await
}

#[tokio::test]
async fn it_listens_on_loopback_only() {
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        assert!(
            matches!(start(listen, CREDENTIAL).await, Err(ProxyError::NotLoopback(_))),
            "{listen}"
        );
    }
}

#[tokio::test]
async fn a_weak_or_unwritable_credential_is_refused() {
    for credential in [
        "",
        "0123456789abcde",
        "0123456789abcdef/",
        "0123456789abcdef:",
        "0123456789abcdefü",
    ] {
        assert!(
            matches!(
                start("127.0.0.1:0", credential).await,
                Err(ProxyError::Credential)
            ),
            "{credential}"
        );
    }
}

#[tokio::test]
async fn a_taken_port_is_said_and_a_freed_one_is_taken_again() {
    let first = start("127.0.0.1:0", CREDENTIAL).await.expect("started");
    let address = first.local_addr();
    let error = start(&address.to_string(), CREDENTIAL).await.expect_err("taken");
    assert_eq!(
        error.to_string(),
        format!("the proxy could not listen on {address}")
    );
    first.shutdown().await;
    let again = start(&address.to_string(), CREDENTIAL).await.expect("free again");
    assert_eq!(again.local_addr(), address);
    again.shutdown().await;
}

#[tokio::test]
async fn the_credential_is_in_the_url_and_nowhere_else() {
    let proxy = start("127.0.0.1:0", CREDENTIAL).await.expect("started");
    let url = format!("http://orfe:{CREDENTIAL}@{}", proxy.local_addr());
    assert_eq!(proxy.url().expose_secret(), url);
    assert!(!format!("{proxy:?} {:?}", proxy.url()).contains(CREDENTIAL));
    proxy.shutdown().await;
}
