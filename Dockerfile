# syntax=docker/dockerfile:1
# CPU image: TORCH_INDEX_URL chooses torch's CPU build. The dependencies are a layer of their own, below the source.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
# The index that serves the wanted build of torch. Empty: pip's own default, on x86-64 a CUDA build of several GB, whose
# kernels (Triton) also need a C compiler where they run.
ARG TORCH_INDEX_URL=""
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev libgomp1 \
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/shira
ENV PATH=/opt/shira/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt pyproject.toml ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      print(*project['dependencies'], *project['optional-dependencies']['images'], sep='\n')" \
      > requirements.txt \
 && pip install --constraint constraints.txt ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
      --requirement requirements.txt
COPY LICENSE NOTICE README.md setup.py ./
COPY adapters_store adapters_store
COPY server server
RUN pip install --no-deps .

FROM python:${PYTHON_VERSION}-slim-bookworm AS runtime
LABEL org.opencontainers.image.title="shira-server" \
      org.opencontainers.image.description="Serves Sparse High Rank Adapters over one base model" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --home-dir /var/lib/shira shira
COPY --from=build /opt/shira /opt/shira
ENV PATH=/opt/shira/bin:$PATH \
    SHIRA_DATA_DIR=/var/lib/shira/data \
    SHIRA_HOST=0.0.0.0 \
    SHIRA_PORT=8000
USER shira
WORKDIR /var/lib/shira
VOLUME /var/lib/shira
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=180s \
  CMD ["python", "-c", "import os, httpx; httpx.get('http://127.0.0.1:' + os.environ['SHIRA_PORT'] + '/readyz', trust_env=False).raise_for_status()"]
ENTRYPOINT ["tini", "--", "shira"]
CMD ["serve"]
