# The image: the static program and the root certificates, nothing else. Built by `make image`, or by hand:
#
#   docker build -t postrider .
#   docker run --read-only -e POSTRIDER_REDIS_URL=redis://... -p 8080:8080 postrider
#
# It holds no redis-server, so the embedded Redis is not in it: POSTRIDER_REDIS_URL is required.

FROM rust:1.95-alpine3.22 AS build
# A C compiler and make for the TLS and allocator code.
# hadolint ignore=DL3018
RUN apk add --no-cache build-base ca-certificates
WORKDIR /src
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY benches benches
COPY tests tests
COPY docs docs
COPY src src
RUN cargo build --locked --release --bin postrider \
    && strip -o /postrider target/release/postrider

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /postrider /postrider
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    POSTRIDER_LISTEN=0.0.0.0:8080 \
    POSTRIDER_OPS_LISTEN=0.0.0.0:9464 \
    POSTRIDER_LOG_FORMAT=json
USER 65532:65532
EXPOSE 8080 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/postrider", "ready"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/postrider"]
CMD ["serve"]
