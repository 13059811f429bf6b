# syntax=docker/dockerfile:1.17
# One image for our own services, MLflow and Prefect: docker-compose.yml says which command each runs.

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
# cpu: a build of torch without CUDA, from TORCH_INDEX where pip's own indexes have none; gpu: the ordinary release
ARG DEVICE=cpu
ARG TORCH_INDEX=
COPY .ci/install_torch.py ./
RUN if [ "$DEVICE" = gpu ]; then pip install "torch>=2.9"; else QWENFORGE_TORCH_INDEX="$TORCH_INDEX" python install_torch.py; fi \
    && python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > torch.txt
# What we depend on, in a layer that only another pyproject.toml replaces; the code itself comes on PYTHONPATH.
COPY pyproject.toml README.md ./
RUN pip install --constraint torch.txt ".[stack,web]"

FROM python:3.11.13-slim-bookworm
# bubblewrap isolates code that models wrote, g++ compiles what trains and writes on a CPU
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home qwenforge && install --directory --owner=qwenforge /data
COPY --from=build /opt/venv /opt/venv
COPY . /app
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 QWENFORGE_HOME=/data DO_NOT_TRACK=1
USER 10001
VOLUME /data
ENTRYPOINT []
CMD ["qwenforge", "--help"]
