use proptest::prelude::*;

use super::*;

/// A client hello for `name` in records of at most `fragment` bytes, with an extension before the name's.
fn client_hello(name: Option<&str>, fragment: usize) -> Vec<u8> {
    let vector = |bytes: &[u8]| {
        let mut vector = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        vector.extend_from_slice(bytes);
        vector
    };
    let mut extensions = [vec![0, 43], vector(&[2, 3, 4])].concat();
    if let Some(name) = name {
        let entry = [vec![HOST_NAME], vector(name.as_bytes())].concat();
        extensions.extend([vec![0, 0], vector(&vector(&entry))].concat());
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([4, 1, 2, 3, 4]);
    body.extend(vector(&[0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(vector(&extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut message = vec![CLIENT_HELLO];
    message.extend_from_slice(&length[1..]);
    message.extend(body);
    message
        .chunks(fragment)
        .flat_map(|part| [vec![HANDSHAKE_RECORD, 3, 1], vector(part)].concat())
        .collect()
}

fn named(name: &str, speech: Speech) -> Sniff {
    Sniff::Host {
        name: name.to_owned(),
        speech,
    }
}

#[test]
fn the_server_name_is_found_however_the_hello_is_cut_into_records_and_reads() {
    for fragment in [1, 7, 50, 16_384] {
        let hello = client_hello(Some("coder.example.com"), fragment);
        assert_eq!(sniff(&hello), named("coder.example.com", Speech::Tls));
        for length in 0..hello.len() {
            assert_eq!(sniff(&hello[..length]), Sniff::More, "{length} bytes");
        }
        let more = [hello, b"early data".to_vec()].concat();
        assert_eq!(sniff(&more), named("coder.example.com", Speech::Tls));
    }
}

#[test]
fn the_host_of_a_plain_request_is_found() {
    let request = b"GET /healthz HTTP/1.1\r\nAccept: */*\r\nhost: Coder.Example.com:80\r\n\r\nbody";
    assert_eq!(sniff(request), named("Coder.Example.com", Speech::Http));
    assert_eq!(sniff(&request[..40]), Sniff::More);
}

#[test]
fn what_names_no_host_is_told_apart() {
    let rows: [(&[u8], &str); 7] = [
        (b"\x05\x01\x00", "neither"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "no client hello"),
        (
            b"\x16\x03\x01\x00\x01\x01\x15\x03\x01\x00\x02\x02\x28",
            "broken off",
        ),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03", "broken"),
        (b"GET / HTTP/1.1\r\n\r\n", "no host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "or two"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "DNS name"),
    ];
    for (bytes, part) in rows {
        match sniff(bytes) {
            Sniff::Nothing(reason) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
    assert_eq!(
        sniff(&client_hello(None, 16_384)),
        Sniff::Nothing("the client hello names no server")
    );
    assert!(matches!(
        sniff(&client_hello(Some("a\r\nb"), 16_384)),
        Sniff::Nothing(_)
    ));
    let endless = [b"GET /".to_vec(), vec![b'a'; MAX_FIRST_BYTES]].concat();
    assert!(matches!(sniff(&endless), Sniff::Nothing(_)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes: Vec<u8>, tls: bool) {
        if tls {
            bytes.splice(0..0, [HANDSHAKE_RECORD, 3, 1]);
        }
        let _ = sniff(&bytes);
    }

    #[test]
    fn a_damaged_hello_makes_no_panic(at in 0_usize..120, value: u8) {
        let mut hello = client_hello(Some("coder.example.com"), 16_384);
        let at = at % hello.len();
        hello[at] = value;
        let _ = sniff(&hello);
    }
}
