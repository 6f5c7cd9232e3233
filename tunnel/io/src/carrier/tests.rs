use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// One end of a connection of messages.
struct End {
    sender: PollSender<Bytes>,
    receiver: mpsc::Receiver<Bytes>,
}

fn connection() -> (End, End) {
    let ((there, from_here), (back, from_there)) = (mpsc::channel(8), mpsc::channel(8));
    let end = |sender, receiver| End {
        sender: PollSender::new(sender),
        receiver,
    };
    (end(there, from_there), end(back, from_here))
}

impl Stream for End {
    type Item = Result<Bytes, String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context).map(|item| item.map(Ok))
    }
}

impl Sink<Bytes> for End {
    type Error = String;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), String>> {
        self.sender
            .poll_ready_unpin(context)
            .map_err(|error| error.to_string())
    }

    fn start_send(mut self: Pin<&mut Self>, item: Bytes) -> Result<(), String> {
        self.sender
            .start_send_unpin(item)
            .map_err(|error| error.to_string())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), String>> {
        self.sender
            .poll_flush_unpin(context)
            .map_err(|error| error.to_string())
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), String>> {
        self.sender
            .poll_close_unpin(context)
            .map_err(|error| error.to_string())
    }
}

fn datagram(number: u8) -> Vec<u8> {
    let mut datagram = vec![0; 64];
    (datagram[0], datagram[63]) = (4, number);
    datagram
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

#[tokio::test]
async fn each_datagram_is_a_message_and_back() {
    let node = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (ends, mut taken) = mpsc::channel(4);
    let connect = move || {
        let ends = ends.clone();
        async move {
            let (ours, theirs) = connection();
            ends.send(theirs).await.map_err(|_| "gone".to_owned())?;
            Ok(ours)
        }
    };
    let bridge = Bridge::start(node.local_addr().unwrap().port(), connect)
        .await
        .unwrap();
    node.connect(bridge.address()).await.unwrap();
    let mut far = within(taken.recv()).await.unwrap();
    for number in 0..100 {
        node.send(&datagram(number)).await.unwrap();
        assert_eq!(within(far.next()).await.unwrap().unwrap(), datagram(number));
        far.send(datagram(number).into()).await.unwrap();
        let mut buffer = [0; 128];
        let len = within(node.recv(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..len], datagram(number));
    }
    // Nobody else on this machine gets a word in.
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(&datagram(200), bridge.address()).await.unwrap();
    far.send(Bytes::from_static(b"no datagram of WireGuard"))
        .await
        .unwrap();
    node.send(&datagram(201)).await.unwrap();
    assert_eq!(within(far.next()).await.unwrap().unwrap(), datagram(201));

    // A connection that breaks is made again, and the endpoint stays.
    drop(far);
    let mut far = within(taken.recv()).await.unwrap();
    within(bridge.state().wait_for(|state| *state == BridgeState::Open))
        .await
        .unwrap();
    node.send(&datagram(7)).await.unwrap();
    assert_eq!(within(far.next()).await.unwrap().unwrap(), datagram(7));

    drop(bridge);
    assert!(
        within(far.next()).await.is_none(),
        "the connection ends with the bridge"
    );
}

#[tokio::test]
async fn why_there_is_no_connection_is_shown() {
    let connect = || async { Err::<End, _>("no way".to_owned()) };
    let bridge = Bridge::start(9, connect).await.unwrap();
    let mut state = bridge.state();
    let failed = within(state.wait_for(|state| *state != BridgeState::Opening))
        .await
        .unwrap();
    assert_eq!(*failed, BridgeState::Failed("no way".into()));
}

#[tokio::test]
async fn an_end_that_does_not_read_is_still_read_from() {
    let (udp, peer) = (
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    );
    udp.connect(peer.local_addr().unwrap()).await.unwrap();
    peer.connect(udp.local_addr().unwrap()).await.unwrap();
    let (ours, mut theirs) = connection();
    let carrying = tokio::spawn(async move { carry(&udp, ours, &Carried::default()).await });
    for number in 0..200 {
        peer.send(&datagram(number)).await.unwrap();
    }
    theirs.send(datagram(250).into()).await.unwrap();
    let mut buffer = [0; 128];
    let len = within(peer.recv(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..len], datagram(250));
    carrying.abort();
}

#[test]
fn what_cannot_be_wireguards_is_told() {
    assert!(is_datagram(&datagram(1)));
    for wrong in [
        &b""[..],
        b"\x04\0\0\0",
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        &[5; 64],
        &[4; 4096],
    ] {
        assert!(!is_datagram(wrong));
    }
}

#[test]
fn an_answer_is_what_only_a_peer_is_told() {
    for (kind, len, expected) in [
        (1, 148, false),
        (2, 92, true),
        (3, 64, false),
        (4, 32, true),
        (5, 64, false),
    ] {
        let mut message = vec![0; len];
        message[0] = kind;
        assert_eq!(is_answer(&message), expected, "type {kind}");
    }
}

#[tokio::test]
async fn a_cookie_reply_is_carried_and_is_no_answer() {
    let (udp, gateway) = (
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    );
    udp.connect(gateway.local_addr().unwrap()).await.unwrap();
    gateway.connect(udp.local_addr().unwrap()).await.unwrap();
    let (ours, mut theirs) = connection();
    let carried = Carried::default();
    let device = async {
        let mut cookie = datagram(0);
        cookie[0] = 3;
        gateway.send(&cookie).await.unwrap();
        assert_eq!(within(theirs.next()).await.unwrap().unwrap(), cookie);
        // Written in one go before it is counted, so the next one says that this one was.
        gateway.send(&cookie).await.unwrap();
        assert_eq!(within(theirs.next()).await.unwrap().unwrap(), cookie);
        assert_eq!(carried.answers(), 0);
        gateway.send(&datagram(1)).await.unwrap();
        within(carried.answered()).await;
        assert_eq!(carried.answers(), 1);
    };
    tokio::select! {
        ended = carry(&udp, ours, &carried) => panic!("{ended:?}"),
        () = device => {}
    }
}
