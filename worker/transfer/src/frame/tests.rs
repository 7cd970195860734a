//! Round trips, and hostile bytes.

use proptest::prelude::*;

use super::*;

fn any_text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let hello = (any::<u128>(), any::<[u8; 16]>(), any::<u64>(), any::<u64>(), any_text());
    let block = (any::<u32>(), any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..600));
    prop_oneof![
        hello.prop_map(|(lease, class, sender, receiver, layout)| {
            Frame::Hello(Hello {
                version: VERSION,
                lease: LeaseId(lease),
                class: NumericsClass(class),
                sender: Incarnation(sender),
                receiver: Incarnation(receiver),
                layout,
            })
        }),
        any::<u16>().prop_map(|version| Frame::Welcome { version }),
        (0..8u8, any_text()).prop_map(|(code, reason)| Frame::Refuse { refusal: Refusal::from_code(code), reason }),
        any::<u64>().prop_map(|bytes| Frame::Credit { bytes }),
        block.prop_map(|(block, store, rows, bytes)| Frame::Block { block, store, rows, bytes: bytes.into() }),
        any::<u32>().prop_map(|blocks| Frame::End { blocks }),
        Just(Frame::Ack),
        any_text().prop_map(|reason| Frame::Abort { reason }),
    ]
}

fn decode_all(decoder: &mut Decoder) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame()? {
        frames.push(frame);
    }
    Ok(frames)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_back_whatever_the_pieces(
        frames in prop::collection::vec(any_frame(), 1..8),
        piece in 1..100usize,
    ) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|f| encode(f, &mut bytes));
        let mut decoder = Decoder::new(frame_bytes_max(600));
        let mut seen = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.buffer().extend_from_slice(piece);
            seen.extend(decode_all(&mut decoder).unwrap());
        }
        prop_assert_eq!(seen, frames);
        prop_assert!(decoder.is_between_frames());
    }

    #[test]
    fn a_flipped_bit_is_never_believed(frame in any_frame(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = BytesMut::new();
        encode(&frame, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let mut decoder = Decoder::new(frame_bytes_max(600));
        decoder.buffer().extend_from_slice(&bytes);
        // An error, or (a longer length) a frame that never completes.
        prop_assert!(!matches!(decoder.next_frame(), Ok(Some(_))));
    }

    #[test]
    fn noise_gives_errors_and_holds_no_memory(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut decoder = Decoder::new(frame_bytes_max(64));
        decoder.buffer().extend_from_slice(&noise);
        let _ = decode_all(&mut decoder);
        prop_assert!(decoder.buffer().capacity() <= 4096);
    }

    #[test]
    fn well_summed_noise_does_not_panic(kind in any::<u8>(), noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut body = vec![kind];
        body.extend(noise);
        let _ = decode(body.into());
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
    let mut decoder = Decoder::new(frame_bytes_max(100));
    decoder.buffer().put_u32_le(u32::MAX);
    decoder.buffer().put_u32_le(0);
    assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong { .. })));
}

#[test]
fn another_version_is_named_whatever_follows_it() {
    let mut bytes = BytesMut::new();
    bytes.put_u8(1);
    bytes.put_slice(b"HDKV");
    bytes.put_u16_le(9);
    bytes.put_slice(b"fields of the future");
    assert_eq!(decode(bytes.freeze()), Err(FrameError::Version { theirs: 9 }));
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let mut bytes = BytesMut::new();
    encode(&Frame::Abort { reason: "é".repeat(600) }, &mut bytes);
    let mut decoder = Decoder::new(frame_bytes_max(0));
    decoder.buffer().extend_from_slice(&bytes);
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::Abort { reason: "é".repeat(256) })));
}

#[test]
fn a_frame_of_no_bytes_is_malformed() {
    let mut decoder = Decoder::new(frame_bytes_max(0));
    decoder.buffer().extend_from_slice(&[0; HEADER_BYTES]);
    assert_eq!(decoder.next_frame(), Err(FrameError::Malformed { what: "empty" }));
}
