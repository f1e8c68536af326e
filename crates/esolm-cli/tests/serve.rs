//! `esolm serve` from outside: over raw HTTP, where nothing is out of a client's reach, and with the clients that people use.

#[path = "serve/answers.rs"]
mod answers;
#[cfg(unix)]
#[path = "serve/attacks.rs"]
mod attacks;
#[path = "serve/chats.rs"]
mod chats;
#[path = "serve/clients.rs"]
mod clients;
mod common;
#[path = "serve/http.rs"]
mod http;
#[path = "serve/models.rs"]
mod models;
#[path = "serve/refusals.rs"]
mod refusals;
