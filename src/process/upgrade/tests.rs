use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::successor::negotiate;
use super::*;
use crate::net::addr::Address;
use crate::net::pass;

fn estate(doors: usize, each: usize) -> Estate {
    let (one, _) = UnixStream::pair().unwrap();
    let socket: Arc<OwnedFd> = Arc::new(one.into());
    let door = |index: usize| Passed {
        listener: format!("l{index}"),
        wanted: Address::Tcp(([127, 0, 0, 1], u16::try_from(index).unwrap()).into()),
        address: Address::Tcp(([127, 0, 0, 1], u16::try_from(index + 1).unwrap()).into()),
        sockets: vec![Arc::clone(&socket); each],
        is_lent: false,
    };
    Estate {
        doors: (0..doors).map(door).collect(),
        admin: None,
        state: Saved::new(7),
        counted: Tally::new(),
    }
}

#[test]
fn three_hundred_doors_change_hands() {
    let estate = estate(300, 2);
    let (near, far) = UnixStream::pair().unwrap();
    let answer = std::thread::scope(|scope| {
        let new = scope.spawn(move || {
            let offer: Offer = read_message(&far).unwrap();
            let count = offer.doors.iter().map(|door| door.sockets).sum();
            assert_eq!(pass::receive(&far, count).unwrap().len(), 600);
            let taken = vec![0, offer.doors.len() - 1];
            write_message(&far, &Answer { taken }).unwrap();
        });
        let answer = negotiate(&near, &estate, &[]).unwrap();
        new.join().unwrap();
        answer
    });
    assert_eq!(answer.taken, [0, 299]);
}

#[test]
fn garbage_and_silence_are_errors() {
    let (mut near, far) = UnixStream::pair().unwrap();
    near.write_all(&u32::MAX.to_le_bytes()).unwrap();
    let refused = read_message::<Answer>(&far).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    near.write_all(&4_u32.to_le_bytes()).unwrap();
    near.write_all(b"nope").unwrap();
    assert!(read_message::<Answer>(&far).is_err());
    drop(near);
    let ended = read_message::<Answer>(&far).unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
}
