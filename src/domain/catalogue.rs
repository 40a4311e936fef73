//! The catalogue of event types that the platform documents (docs/WIRE.md section 5).
