//! Yielding to the browser between passes.

/// Lets the browser's event loop run, so that the page repaints and messages arrive. A no-op natively.
#[cfg(not(target_family = "wasm"))]
pub async fn turn() {}

#[cfg(target_family = "wasm")]
pub use browser::turn;

#[cfg(target_family = "wasm")]
mod browser {
    use js_sys::{Function, Promise};
    use wasm_bindgen::JsValue;
    use wasm_bindgen::prelude::wasm_bindgen;
    use wasm_bindgen_futures::JsFuture;

    #[wasm_bindgen]
    extern "C" {
        type MessageChannel;
        #[wasm_bindgen(constructor)]
        fn new() -> MessageChannel;
        #[wasm_bindgen(method, getter)]
        fn port1(this: &MessageChannel) -> MessagePort;
        #[wasm_bindgen(method, getter)]
        fn port2(this: &MessageChannel) -> MessagePort;

        type MessagePort;
        #[wasm_bindgen(method, setter)]
        fn set_onmessage(this: &MessagePort, listener: &Function);
        #[wasm_bindgen(method, js_name = postMessage)]
        fn post(this: &MessagePort, message: &JsValue);
        #[wasm_bindgen(method)]
        fn close(this: &MessagePort);
    }

    /// See the native version. A message to oneself arrives without the delay that timers have.
    pub async fn turn() {
        let channel = MessageChannel::new();
        let received = Promise::new(&mut |resolve, _| channel.port1().set_onmessage(&resolve));
        channel.port2().post(&JsValue::NULL);
        // Nothing ever rejects this promise.
        let _ = JsFuture::from(received).await;
        channel.port1().close();
    }
}
