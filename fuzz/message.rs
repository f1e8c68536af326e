//! What every error message must be, whatever the file holds.

pub fn check(message: &str) {
    assert!(
        message.len() < 1500,
        "a message must not flood the terminal: {message}"
    );
    assert!(
        !message.contains(char::is_control),
        "a message must not control the terminal: {message:?}"
    );
}
