//! The executor's ends of an agent's pipes.

use std::{
    io::{self, PipeReader, Read, Write},
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe::{Receiver, Sender},
};

/// What every pipe takes before anybody reads, in bytes: `PIPE_BUF`, which fits whatever the system's limits are
/// (<https://man7.org/linux/man-pages/man7/pipe.7.html>).
const ALWAYS_FITS: usize = 4096;

/// Read at once from a pipe that nobody watches.
const READ_BYTES: usize = 4096;

/// What an agent reads: the end that goes to it, and ours, if there is more to say.
///
/// # Errors
/// Those of the operating system.
pub(crate) fn input(request: Option<&[u8]>) -> io::Result<(PipeReader, Option<Sender>)> {
    let (theirs, mut ours) = io::pipe()?;
    match request {
        // It is there before the agent is, which so never waits for it.
        Some(request) if request.len() <= ALWAYS_FITS => {
            ours.write_all(request)?;
            Ok((theirs, None))
        }
        _ => {
            let ours = OwnedFd::from(ours);
            never_block(&ours)?;
            Ok((theirs, Some(Sender::from_owned_fd_unchecked(ours)?)))
        }
    }
}

/// What an agent writes: the end that goes to it, and ours.
///
/// # Errors
/// Those of the operating system.
pub(crate) fn output() -> io::Result<(io::PipeWriter, Output)> {
    let (ours, theirs) = io::pipe()?;
    never_block(&ours)?;
    Ok((theirs, Output(Watch::Not(ours))))
}

fn never_block(pipe: impl AsFd) -> io::Result<()> {
    Ok(fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)?)
}

/// Our end of a pipe that an agent writes to. The runtime watches it from the first time on that something has to be waited
/// for: what is read when it is there already costs neither that nor a wake-up.
#[derive(Debug)]
pub(crate) struct Output(Watch);

#[derive(Debug)]
enum Watch {
    Not(PipeReader),
    By(Receiver),
    /// The runtime could not take it.
    Failed,
}

impl Output {
    /// Reads what is there now, whether or not the runtime watches the pipe, and leaves who waits for more waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, else those of the operating system.
    pub(crate) fn read_now(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Watch::Not(pipe) => pipe.read(into),
            Watch::By(pipe) => Ok(nix::unistd::read(pipe, into)?),
            Watch::Failed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl AsyncRead for Output {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watch = &mut self.get_mut().0;
        if let Watch::Not(pipe) = watch {
            let room = into.remaining().min(READ_BYTES);
            let mut there = [0; READ_BYTES];
            match pipe.read(&mut there[..room]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    into.put_slice(&there[..read?]);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        *watch = match std::mem::replace(watch, Watch::Failed) {
            Watch::Not(pipe) => Watch::By(Receiver::from_owned_fd_unchecked(pipe.into())?),
            watched => watched,
        };
        match watch {
            Watch::By(pipe) => Pin::new(pipe).poll_read(cx, into),
            Watch::Not(_) | Watch::Failed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_small_request_is_there_with_its_end_and_a_large_one_is_left_to_be_written() {
        let (mut theirs, ours) = input(Some(&[b'x'; ALWAYS_FITS])).unwrap();
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).unwrap();
        assert_eq!((read.len(), ours.is_none()), (ALWAYS_FITS, true));
        assert!(input(Some(&[b'x'; ALWAYS_FITS + 1])).unwrap().1.is_some());
        assert!(input(None).unwrap().1.is_some());
    }

    /// Without a runtime, to which every pipe that is watched would have to be known.
    #[test]
    fn what_is_there_is_read_up_to_its_end_without_watching() {
        let (mut theirs, mut ours) = output().unwrap();
        let said = vec![b'x'; 3 * READ_BYTES + 1];
        theirs.write_all(&said).unwrap();
        drop(theirs);
        let mut heard = Vec::new();
        let read = ours.read_to_end(&mut heard).now_or_never();
        assert_eq!((read.unwrap().unwrap(), heard), (said.len(), said));
    }

    #[tokio::test]
    async fn what_is_said_later_is_waited_for() {
        let (mut theirs, mut ours) = output().unwrap();
        let mut heard = Vec::with_capacity(2 * READ_BYTES);
        assert!(ours.read_buf(&mut heard).now_or_never().is_none());
        let nothing = ours.read_now(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        theirs.write_all(b"late").unwrap();
        assert_eq!(ours.read_buf(&mut heard).await.unwrap(), 4);
        drop(theirs);
        assert_eq!(ours.read_buf(&mut heard).await.unwrap(), 0);
        assert_eq!(heard, b"late");
    }
}
