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

/// Bytes that every pipe accepts before it is read: `PIPE_BUF`, which holds under every system limit
/// (<https://man7.org/linux/man-pages/man7/pipe.7.html>).
const ALWAYS_FITS: usize = 4096;

/// Bytes of one read from a pipe that is not registered with the runtime.
const CHUNK_BYTES: usize = 4096;

/// The pipe to an agent's standard input: the agent's end, and the executor's end if there is more to write.
///
/// # Errors
/// Those of the operating system.
pub(crate) fn stdin_pipe(request: Option<&[u8]>) -> io::Result<(PipeReader, Option<Sender>)> {
    let (agent_end, mut own_end) = io::pipe()?;
    match request {
        // Written before the agent starts, so the agent never waits for it.
        Some(request) if request.len() <= ALWAYS_FITS => {
            own_end.write_all(request)?;
            Ok((agent_end, None))
        }
        _ => {
            let own_end = OwnedFd::from(own_end);
            set_nonblocking(&own_end)?;
            Ok((agent_end, Some(Sender::from_owned_fd_unchecked(own_end)?)))
        }
    }
}

/// A pipe for an agent's output: the agent's end, and the executor's end.
///
/// # Errors
/// Those of the operating system.
pub(crate) fn output_pipe() -> io::Result<(io::PipeWriter, OutputPipe)> {
    let (own_end, agent_end) = io::pipe()?;
    set_nonblocking(&own_end)?;
    Ok((agent_end, OutputPipe(State::Unregistered(own_end))))
}

fn set_nonblocking(pipe: impl AsFd) -> io::Result<()> {
    Ok(fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)?)
}

/// The executor's end of a pipe that an agent writes to. It is registered with the runtime at the first read that has to
/// wait: output that is available at once costs neither that nor a wake-up.
#[derive(Debug)]
pub(crate) struct OutputPipe(State);

#[derive(Debug)]
enum State {
    Unregistered(PipeReader),
    Registered(Receiver),
    /// The registration failed.
    Failed,
}

impl OutputPipe {
    /// Reads what is available, regardless of the registration, and without waking a task that waits for more.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, else those of the operating system.
    pub(crate) fn read_now(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            State::Unregistered(pipe) => pipe.read(into),
            State::Registered(pipe) => Ok(nix::unistd::read(pipe, into)?),
            State::Failed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl AsyncRead for OutputPipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let state = &mut self.get_mut().0;
        if let State::Unregistered(pipe) = state {
            let spare = into.remaining().min(CHUNK_BYTES);
            let mut chunk = [0; CHUNK_BYTES];
            match pipe.read(&mut chunk[..spare]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    into.put_slice(&chunk[..read?]);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        *state = match std::mem::replace(state, State::Failed) {
            State::Unregistered(pipe) => State::Registered(Receiver::from_owned_fd_unchecked(pipe.into())?),
            registered => registered,
        };
        match state {
            State::Registered(pipe) => Pin::new(pipe).poll_read(cx, into),
            State::Unregistered(_) | State::Failed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn small_request_is_written_at_once_and_a_large_one_later() {
        let (mut agent_end, own_end) = stdin_pipe(Some(&[b'x'; ALWAYS_FITS])).unwrap();
        let mut read = Vec::new();
        agent_end.read_to_end(&mut read).unwrap();
        assert_eq!((read.len(), own_end.is_none()), (ALWAYS_FITS, true));
        assert!(stdin_pipe(Some(&[b'x'; ALWAYS_FITS + 1])).unwrap().1.is_some());
        assert!(stdin_pipe(None).unwrap().1.is_some());
    }

    /// Runs without a runtime, which a registered pipe would need.
    #[test]
    fn available_output_is_read_to_its_end_without_registration() {
        let (mut agent_end, mut own_end) = output_pipe().unwrap();
        let written = vec![b'x'; 3 * CHUNK_BYTES + 1];
        agent_end.write_all(&written).unwrap();
        drop(agent_end);
        let mut read = Vec::new();
        let length = own_end.read_to_end(&mut read).now_or_never();
        assert_eq!((length.unwrap().unwrap(), read), (written.len(), written));
    }

    #[tokio::test]
    async fn output_written_later_is_waited_for() {
        let (mut agent_end, mut own_end) = output_pipe().unwrap();
        let mut read = Vec::with_capacity(2 * CHUNK_BYTES);
        assert!(own_end.read_buf(&mut read).now_or_never().is_none());
        let nothing = own_end.read_now(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        agent_end.write_all(b"late").unwrap();
        assert_eq!(own_end.read_buf(&mut read).await.unwrap(), 4);
        drop(agent_end);
        assert_eq!(own_end.read_buf(&mut read).await.unwrap(), 0);
        assert_eq!(read, b"late");
    }
}
