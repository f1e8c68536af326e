//! `esolm serve` as clients see it: over raw HTTP, where a client can send anything, and with widely used clients.

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
