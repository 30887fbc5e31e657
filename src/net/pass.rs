//! Descriptors over a unix socket, from one process to another (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::stream::retry;

/// Descriptors in one message; the kernel's own limit is 253.
const AT_ONCE: usize = 64;

/// Sends `descriptors`, in order. Blocks as the socket does.
///
/// # Errors
///
/// As the kernel says, its own timeout included.
pub fn send(to: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    for part in descriptors.chunks(AT_ONCE) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(part)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // The byte tells how many come with it.
        let count = [u8::try_from(part.len()).unwrap_or(u8::MAX)];
        let bytes = [IoSlice::new(&count)];
        retry(|| Ok(sendmsg(&to, &bytes, &mut control, SendFlags::NOSIGNAL)?))?;
    }
    Ok(())
}

/// Receives `count` descriptors, in order, none of which a child inherits. Blocks as the socket does.
///
/// # Errors
///
/// As the kernel says, its own timeout included; `InvalidData` when others come than were announced.
/// Those that came are closed then.
pub fn receive(from: impl AsFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::new();
    while descriptors.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut announced = [0];
        let message = retry(|| {
            let mut bytes = [IoSliceMut::new(&mut announced)];
            Ok(recvmsg(&from, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?)
        })?;
        let before = descriptors.len();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(part) = part {
                descriptors.extend(part);
            }
        }
        let is_whole = descriptors.len() - before == usize::from(announced[0]);
        if message.bytes == 0 || !is_whole || message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    if descriptors.len() == count {
        Ok(descriptors)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn hundreds_of_descriptors_arrive_in_order() {
        let (near, far) = UnixStream::pair().unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        let files: Vec<_> = (0..300).map(|_| one.try_clone().unwrap()).collect();
        let sent: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let sender = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(&far, 300).unwrap());
            send(&near, &sent).unwrap();
            receiver.join().unwrap()
        });
        assert_eq!(sender.len(), 300);
        let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let expected = rustix::fs::fstat(&one).unwrap().st_ino;
        assert!(sender.iter().all(|fd| identity(fd) == expected));
    }

    #[test]
    fn what_was_not_announced_is_refused() {
        use std::io::Write;
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(&[3]).unwrap();
        assert_eq!(receive(&far, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(near);
        assert!(receive(&far, 1).is_err());
    }
}
