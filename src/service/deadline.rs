//! How long a call may wait for the agent on the server, or for a copy: a little less than its caller waits.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;
use tonic::codegen::http::HeaderMap;

use crate::volume::quota;

/// The lower and upper bound of the time that is left to undo the work and to answer. It is a tenth of the caller's
/// time.
const MARGIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// The longest wait, even if the caller has more time: the call holds the volume's lock meanwhile, and with it a part
/// of the export.
const MOST: Duration = Duration::from_secs(30);

/// Until when a call waits for the agent. Without a deadline of the caller, this is the default.
pub fn for_agent<T>(request: &Request<T>) -> Instant {
    left(request.metadata().as_ref()).map_or_else(quota::patience, |left| Instant::now() + left.min(MOST))
}

/// Until when a call answers if it only waits for work that goes on without it; `None` if its caller has no deadline.
pub fn for_answer<T>(request: &Request<T>) -> Option<Instant> {
    of_call(request.metadata().as_ref())
}

/// The same, for a call with these headers.
pub fn of_call(headers: &HeaderMap) -> Option<Instant> {
    Instant::now().checked_add(left(headers)?)
}

/// A little less than the caller waits; `None` if it has no deadline.
fn left(headers: &HeaderMap) -> Option<Duration> {
    let timeout = headers.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?))?;
    Some(timeout.saturating_sub((timeout / 10).clamp(MARGIN.0, MARGIN.1)))
}

/// Parses the header `grpc-timeout`: up to eight digits and a unit ("gRPC over HTTP2", Requests).
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("10S", 9_000)]
    #[case("15000m", 14_000)]
    #[case("500000u", 400)]
    #[case("50m", 0)]
    #[case("1M", 59_000)]
    fn a_call_waits_a_little_less_than_its_caller(#[case] header: &str, #[case] milliseconds: u64) {
        let mut request = Request::new(());
        request.metadata_mut().insert("grpc-timeout", header.parse().unwrap());
        assert_eq!(left(request.metadata().as_ref()), Some(Duration::from_millis(milliseconds)));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_wait_for_the_agent_has_a_bound_of_its_own() {
        let mut request = Request::new(());
        request.metadata_mut().insert("grpc-timeout", "99999999H".parse().unwrap());
        assert_eq!(for_agent(&request), Instant::now() + MOST);
        assert!(for_answer(&request).is_none_or(|until| until > Instant::now() + MOST));
        assert_eq!(for_answer(&Request::new(())), None);
    }

    #[rstest]
    #[case("")]
    #[case("S")]
    #[case("5")]
    #[case("-5S")]
    #[case("123456789S")]
    #[case("5Ü")]
    fn an_invalid_header_is_no_deadline(#[case] header: &str) {
        assert_eq!(parse(header), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_without_a_deadline_gets_the_default() {
        assert_eq!(for_agent(&Request::new(())), quota::patience());
        let mut request = Request::new(());
        request.metadata_mut().insert("grpc-timeout", "20S".parse().unwrap());
        assert_eq!(for_agent(&request), Instant::now() + Duration::from_secs(19));
    }
}
