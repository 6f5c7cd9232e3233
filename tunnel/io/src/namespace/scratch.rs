use super::message::SocketKind;
use super::*;
use std::fs::File;
use std::io::{Read, Write};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
fn pump(from: OwnedFd, to: OwnedFd) {
    let (mut from, mut to) = (File::from(from), File::from(to));
    let mut b = vec![0; 70000];
    loop {
        match from.read(&mut b) {
            Ok(n) => { let _ = to.write(&b[..n]); }
            Err(e) if e.kind()==io::ErrorKind::WouldBlock => { let mut p=[rustix::event::PollFd::new(&from, rustix::event::PollFlags::IN)]; let _=rustix::event::poll(&mut p, None); }
            Err(_) => return,
        }
    }
}
#[tokio::test(flavor="multi_thread")]
async fn scratch() {
    let program = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("tunnel-test-helper");
    let make = |a: &str| { let t=Instant::now(); let m=Namespace::make(NamespaceConfig{program: program.clone(), mtu:1420, addresses: vec![a.parse().unwrap(), "fd00::1".parse().unwrap()]}).unwrap_or_else(|e| panic!("{e} {e:?} {:?}", e.hint())); eprintln!("made in {:?}, {}", t.elapsed(), m.congestion); m };
    let a = make("100.64.1.1"); let b = make("100.64.1.2");
    let (a1,a2)=(a.tun.try_clone().unwrap(), a.tun); let (b1,b2)=(b.tun.try_clone().unwrap(), b.tun);
    std::thread::spawn(move|| pump(a1,b1)); std::thread::spawn(move|| pump(b2,a2));
    let l = b.namespace.helper.socket(SocketKind::Tcp4).await.unwrap();
    rustix::net::bind(&l, &"100.64.1.2:80".parse::<std::net::SocketAddr>().unwrap()).unwrap(); rustix::net::listen(&l, 1000).unwrap();
    let l = tokio::net::TcpListener::from_std(l.into()).unwrap();
    tokio::spawn(async move { loop { let (mut s,_)=l.accept().await.unwrap(); tokio::spawn(async move { let (mut r,mut w)=s.split(); let _=tokio::io::copy(&mut r,&mut w).await; let _=w.shutdown().await; }); } });
    let c = Connections::new(a.namespace.clone(), vec!["100.64.1.1".parse().unwrap()], 512);
    let to = "100.64.1.2:80".parse().unwrap();
    let mut s = c.open(to).await.unwrap();
    s.write_all(b"hello").await.unwrap(); let mut x=[0;5]; s.read_exact(&mut x).await.unwrap(); assert_eq!(&x,b"hello");
    let t=Instant::now(); let n=2000;
    for _ in 0..n { let mut s=c.open(to).await.unwrap(); s.shutdown().await.unwrap(); let mut v=vec![]; s.read_to_end(&mut v).await.unwrap(); }
    eprintln!("{} conn/s sequential", n as f64/t.elapsed().as_secs_f64());
    assert_eq!(c.count(),1);
    let e = c.open("100.64.1.2:81".parse().unwrap()).await.unwrap_err(); eprintln!("{e:?}");
    c.reset_all();
    let e = s.read(&mut x).await.unwrap_err(); eprintln!("{e:?}");
    let pid = std::process::Command::new("sh").arg("-c").arg("for p in $(pgrep -f namespace-helper); do grep -E 'Cap|Uid|NoNewPrivs|VmRSS|Threads' /proc/$p/status; ls -l /proc/$p/fd; cat /proc/$p/environ | wc -c; done").output().unwrap();
    eprintln!("{}", String::from_utf8_lossy(&pid.stdout));
    let ended = a.namespace.ended(); drop(c); drop(a.namespace); ended.cancelled().await;
}
