# docker build -t tidegate .
# docker run --network host -v ./conf:/etc/tidegate:ro tidegate
ARG BUILD_IMAGE=rust:1.88-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY examples examples
RUN cargo build --release --locked --bin tidegate

FROM ${RUN_IMAGE}
RUN useradd --system --no-create-home --shell /usr/sbin/nologin tidegate
COPY --from=build /src/target/release/tidegate /usr/local/bin/tidegate
COPY LICENSE LICENSE-MIT LICENSE-APACHE /usr/share/doc/tidegate/
USER tidegate
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/tidegate"]
CMD ["run", "-c", "/etc/tidegate/tidegate.yaml"]
