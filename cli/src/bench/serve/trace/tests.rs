//! Traces as they are published, and broken ones.

use super::*;

fn parsed(text: &str) -> Result<Vec<Request>, String> {
    read(&mut text.as_bytes(), "t", usize::MAX).map_err(|error| error.to_string())
}

fn request(ms: u64, input_tokens: u32, output_tokens: u32, blocks: &[u64]) -> Request {
    Request { at: Duration::from_millis(ms), input_tokens, output_tokens, blocks: blocks.to_vec() }
}

#[test]
fn mooncakes_lines_are_read_whatever_else_they_have() {
    let text = "\u{feff}{\"timestamp\":3000,\"input_length\":600,\"output_length\":5,\"hash_ids\":[0,7]}\r\n\n\
                {\"timestamp\": 3500.5, \"input_length\": 1, \"output_length\": 0, \"type\": \"text\"}\n";
    let late = Request { at: Duration::from_micros(500_500), ..request(0, 1, 1, &[]) };
    assert_eq!(parsed(text).unwrap(), [request(0, 600, 5, &[0, 7]), late]);
}

#[test]
fn azures_rows_are_read_by_the_names_of_their_columns() {
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.9799600,4808,10\r\n\
                2023-11-17 00:00:00.0299600,3180,8\n";
    assert_eq!(parsed(text).unwrap(), [request(0, 4808, 10, &[]), request(50, 3180, 8, &[])]);
    let other = "generatedtokens,\"TIMESTAMP\",x,ContextTokens\n7,2024-02-29T00:00:00Z,,9\n\
                 8,2024-03-01 00:00:00.000000+00:00,,10\n";
    assert_eq!(parsed(other).unwrap(), [request(0, 9, 7, &[]), request(24 * 3600 * 1000, 10, 8, &[])]);
}

#[test]
fn requests_come_by_time_and_of_one_time_in_their_order() {
    let line = |ms, tokens| format!("{{\"timestamp\":{ms},\"input_length\":{tokens},\"output_length\":1}}\n");
    let all = parsed(&[line(20, 1), line(10, 2), line(20, 3)].concat()).unwrap();
    assert_eq!(all.iter().map(|r| r.input_tokens).collect::<Vec<_>>(), [2, 1, 3]);
    assert_eq!(all[1].at, Duration::from_millis(10));
}

#[test]
fn a_limit_reads_no_further() {
    let text = "{\"timestamp\":0,\"input_length\":1,\"output_length\":1}\nbroken\n";
    assert_eq!(read(&mut text.as_bytes(), "t", 1).unwrap().len(), 1);
}

#[test]
fn what_is_wrong_names_file_and_line() {
    let good = "{\"timestamp\":0,\"input_length\":1,\"output_length\":1}\n";
    let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
    let time = "2023-11-16 18:17:03.97";
    let wrong: [(String, &str); 14] = [
        (format!("{good}\n{{\"timestamp\":0"), "t:3: no JSON object"),
        (format!("{good}[1]\n"), "t:2: timestamp is missing"),
        (good.replace("0", "-1"), "t:1: timestamp is no number"),
        (good.replace("\"input_length\":1", "\"input_length\":1.5"), "t:1: input_length is no number of tokens"),
        (good.replace("\"output_length\":1", "\"output_length\":99999999999"), "t:1: output_length is no number"),
        (good.replace('}', ",\"hash_ids\":[\"a\"]}"), "t:1: hash_ids holds no whole number"),
        (good.replace('}', ",\"hash_ids\":3}"), "t:1: hash_ids is no list"),
        ("a,b,c\n1,2,3\n".into(), "t:1: neither Mooncake's JSON lines nor CSV with the columns TIMESTAMP"),
        (format!("{header}{time},12\n"), "t:2: GeneratedTokens is missing"),
        (format!("{header}{time},twelve,1\n"), "t:2: ContextTokens is no number of tokens"),
        (format!("{header}yesterday,12,1\n"), "t:2: TIMESTAMP \"yesterday\" is no time"),
        (format!("{header}2023-13-16 18:17:03,12,1\n"), "t:2: TIMESTAMP"),
        (header.into(), "t has no request"),
        (String::new(), "t has no request"),
    ];
    for (text, says) in wrong {
        let error = parsed(&text).unwrap_err();
        assert!(error.starts_with(says), "{text:?}: {error}");
    }
    let binary = read(&mut &b"\xff\xfe\n"[..], "t", 9).unwrap_err().to_string();
    assert!(binary.starts_with("t:1: no UTF-8"), "{binary}");
    let endless = read(&mut "x".repeat(2 << 20).as_bytes(), "t", 9).unwrap_err().to_string();
    assert!(endless.starts_with("t:1: longer than"), "{endless}");
}

#[test]
fn days_are_those_of_the_calendar() {
    assert_eq!(days(1970, 1, 1), 0);
    assert_eq!(days(2000, 3, 1), 11_017);
    assert_eq!(days(2023, 11, 16), 19_677);
    assert_eq!(nanoseconds("1970-01-02 00:00:01.5"), Some(86_401_500_000_000));
    assert_eq!(nanoseconds("2023-11-16 18:17:03.9799600").map(|ns| ns % 1_000_000_000), Some(979_960_000));
}
