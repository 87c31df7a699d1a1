# syntax=docker/dockerfile:1
# The server for CPUs (target cpu, the default) and for NVIDIA GPUs (target cuda).
# deploy/README.md tells how it is built and run, and how this file was checked.

# With a digest behind it (…@sha256:…) the same build is had again for good.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
# The index that serves the wanted build of torch. Empty: pip's own default, on x86-64 a CUDA build of several GB.
ARG TORCH_INDEX_URL=""
ENV PATH=/opt/shira/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/shira
WORKDIR /src
COPY constraints.txt pyproject.toml ./
# Not kept: the packages' own tests, and torch's headers, for extensions that nobody builds here.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      extras = project['optional-dependencies']; \
      print(*project['dependencies'], *extras['images'], *extras['tracing'], sep='\n')" \
      > requirements.txt \
 && pip install --constraint constraints.txt ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
      --requirement requirements.txt \
 && find /opt/shira \( -name tests -o -path '*/torch/test' -o -path '*/torch/bin/test_*' -o -path '*/torch/include' \) \
      -prune -exec rm -rf {} +

FROM dependencies AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc=4:12.2.* libc6-dev=2.36-* \
 && rm -rf /var/lib/apt/lists/*
COPY LICENSE NOTICE README.md setup.py ./
COPY adapters_store adapters_store
COPY server server
# A folder of its own: a new source is a layer of a few MB, on top of that of the dependencies.
RUN pip install --no-deps --no-build-isolation --target /opt/app .

FROM ${PYTHON_IMAGE} AS runtime
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1=12.2.* tini=0.19.* \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --home-dir /var/lib/shira --shell /usr/sbin/nologin shira
COPY --from=dependencies /opt/shira /opt/shira
COPY --from=build /opt/app /opt/app
# HOME is the volume: every cache (hub, Triton, …) is below it or in /tmp, so that the root can be read-only.
ENV PATH=/opt/app/bin:/opt/shira/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    HOME=/var/lib/shira \
    SHIRA_DATA_DIR=/var/lib/shira/data \
    SHIRA_HOST=0.0.0.0 \
    SHIRA_PORT=8000
USER 10001:10001
WORKDIR /var/lib/shira
VOLUME /var/lib/shira
EXPOSE 8000
# Alive, not ready: what acts on this restarts the container, and a server that drains must not be.
HEALTHCHECK --interval=15s --timeout=5s --start-period=600s --start-interval=2s --retries=3 \
  CMD ["python", "-ISc", "import http.client, os, sys; server = http.client.HTTPConnection('127.0.0.1', int(os.environ['SHIRA_PORT'])); server.request('GET', '/livez'); sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["tini", "--", "shira"]
CMD ["serve"]
ARG PYTHON_IMAGE
ARG SOURCE_URL=""
ARG REVISION=""
LABEL org.opencontainers.image.title="shira-server" \
      org.opencontainers.image.description="Serves Sparse High Rank Adapters: exact millisecond switching over one base model." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.source="$SOURCE_URL" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="$PYTHON_IMAGE"

FROM runtime AS cuda
USER 0
# Triton compiles its launchers where it runs, against the headers of the base image's Python; ptxas comes with Triton.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc=4:12.2.* libc6-dev=2.36-* \
 && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001

FROM runtime AS cpu
