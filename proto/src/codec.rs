//! The encoding of messages: that of prost, with smaller buffers.

use std::{any::TypeId, fmt, marker::PhantomData};

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::common::{ExchangeRequest, ExchangeResponse};

/// Bytes that a call reserves for messages in each direction. A longer message gets a longer buffer. There may be thousands of calls,
/// and most messages are short; tonic would reserve 8 KiB.
const BUFFER_BYTES: usize = 1024;

/// The same for a call that carries the messages of many calls.
const SHARED_BUFFER_BYTES: usize = 8 * 1024;

/// Bytes of messages that are ready, from which they are sent together: tonic's own value.
const SEND_BYTES: usize = 32 * 1024;

/// Encodes `T` and decodes `U`.
pub(crate) struct CompactCodec<T, U>(PhantomData<fn() -> (T, U)>);

impl<T, U> Default for CompactCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> fmt::Debug for CompactCodec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CompactCodec")
    }
}

impl<T, U> Codec for CompactCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings::<T>())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings::<U>())
    }
}

fn settings<M: 'static>() -> BufferSettings {
    let is_shared =
        [TypeId::of::<ExchangeRequest>(), TypeId::of::<ExchangeResponse>()].contains(&TypeId::of::<M>());
    BufferSettings::new(if is_shared { SHARED_BUFFER_BYTES } else { BUFFER_BYTES }, SEND_BYTES)
}

#[cfg(test)]
mod tests {
    use tonic::codec::Encoder;

    use super::*;
    use crate::planner::{GetPlanRequest, GetPlanResponse};

    #[test]
    fn only_calls_that_carry_others_have_large_buffers() {
        let bytes = |settings: BufferSettings| format!("{settings:?}");
        let mut plain = CompactCodec::<GetPlanRequest, GetPlanResponse>::default();
        assert!(bytes(plain.encoder().buffer_settings()).contains("buffer_size: 1024,"));
        let mut shared = CompactCodec::<ExchangeRequest, ExchangeResponse>::default();
        assert!(bytes(shared.encoder().buffer_settings()).contains("buffer_size: 8192,"));
    }
}
