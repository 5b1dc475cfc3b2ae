//! A web service of one's own: `POST /ask` with a question as body, the answer comes as it is generated.
//! Whoever hangs up frees the model's time at once, since that drops the stream.
//!
//! ```console
//! $ cargo run --release --example axum -- google/gemma-3-1b-it 3000
//! $ curl --no-buffer --data 'What is the sea?' http://127.0.0.1:3000/ask
//! ```

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::get, routing::post};
use futures::StreamExt;
use ostro::{Model, RequestBuilder, TextMessageRole, TextModelBuilder};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model_id = arguments.next().context("which model? a folder, a hub id or a .gguf file")?;
    let port: u16 = arguments.next().map_or(Ok(3000), |port| port.parse())?;
    let model = TextModelBuilder::new(model_id).build().await?;

    let app = Router::new().route("/ask", post(ask)).route("/load", get(load)).with_state(model);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn ask(State(model): State<Model>, question: String) -> Result<Response, Refused> {
    let request = RequestBuilder::new().add_message(TextMessageRole::User, question).set_sampler_max_len(200);
    let stream = model.stream_chat_request(request).await?;
    let texts = stream.map(|response| {
        let chunk = response.into_chunk()?;
        Ok::<_, ostro::Error>(chunk.choices.into_iter().filter_map(|choice| choice.delta.content).collect::<String>())
    });
    Ok(Body::from_stream(texts).into_response())
}

async fn load(State(model): State<Model>) -> Result<Json<serde_json::Value>, Refused> {
    let stats = model.stats().await?;
    Ok(Json(json!({"running": stats.running, "waiting": stats.waiting})))
}

/// An error with the status that fits it.
struct Refused(ostro::Error);

impl From<ostro::Error> for Refused {
    fn from(error: ostro::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, self.0.to_string()).into_response()
    }
}
