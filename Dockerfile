# keylane with its Kafka client, as a user without rights. Build from the root of the repository.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY schemas schemas
COPY journal journal
COPY telemetry telemetry
COPY router router
COPY guards guards
COPY verify verify
COPY workers workers
RUN python -m venv /keylane && /keylane/bin/pip install --no-cache-dir '.[kafka]'

FROM python:3.11.14-slim-bookworm
RUN useradd --create-home --uid 10001 keylane
COPY --from=build /keylane /keylane
ENV PATH=/keylane/bin:$PATH PYTHONUNBUFFERED=1
USER keylane
WORKDIR /home/keylane
ENTRYPOINT ["keylane"]
CMD ["--help"]
