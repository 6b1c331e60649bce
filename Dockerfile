# syntax=docker/dockerfile:1
# Dependencies are built in a layer of their own, from a recipe that changes only with Cargo.lock
# (cargo-chef). A cache mount would do on one machine; a layer also travels through a registry to a
# runner that is new every time.
#
#   docker build -t traffic-api .                        the image
#   docker build --target test .                         the tests, with a real ClickHouse
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm
# Has no version tags: pin it by digest where builds must be repeatable. The same Debian as above,
# because the binary needs its glibc.
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS chef
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -qy --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/* \
    && cargo install --locked cargo-chef@0.1.78
WORKDIR /src

FROM chef AS recipe
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

FROM chef AS build
COPY --from=recipe /recipe.json /recipe.json
RUN cargo chef cook --release --locked --bin traffic-api --recipe-path /recipe.json
COPY . .
RUN cargo build --release --locked --bin traffic-api \
    && mkdir -p /out/data \
    && objcopy --strip-debug target/release/traffic-api /out/traffic-api

# What CI does, in the image's own system. npm fetches the engine; without the others
# their tests would be skipped.
FROM chef AS test
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -qy --no-install-recommends npm chromium chromium-driver fonts-dejavu-core \
        nginx-light openssl prometheus libzookeeper-java default-jre-headless \
    && rm -rf /var/lib/apt/lists/* \
    && rustup component add rustfmt clippy
COPY --from=recipe /recipe.json /recipe.json
RUN cargo chef cook --tests --locked --recipe-path /recipe.json
COPY . .
CMD ["cargo", "test", "--locked"]

# hadolint ignore=DL3006
FROM ${RUNTIME_IMAGE} AS runtime
ARG VERSION=0.0.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="traffic-api" \
      org.opencontainers.image.description="Takes in page views over HTTP, stores them in ClickHouse, answers exact reports" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /out/traffic-api /usr/local/bin/traffic-api
# A new volume takes over this owner, so the service may write to it.
COPY --from=build --chown=65532:65532 --chmod=0700 /out/data /data
ENV LISTEN_ADDR=0.0.0.0:8000 \
    DATA_DIR=/data \
    LOG_FORMAT=json
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
# A .env is looked for here, and there is none: settings come from the environment.
WORKDIR /
VOLUME /data
EXPOSE 8000
# Stops within 25 s; give it 30 (docker stop --timeout 30).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/traffic-api", "probe"]
ENTRYPOINT ["/usr/local/bin/traffic-api"]
CMD ["serve"]
