# One image for every service: `docker build --build-arg SERVICE=cis-poster .`
# Besides the services, SERVICE=reference-cis makes the counterparts for local use.
#
# The base is pinned by its version. Its digest is not known here, as no registry could be asked where this
# was written: put `@sha256:…` behind both names when you build for production. What is installed on top
# is pinned by hash. `make sbom` lists it, `make audit` asks what is known against it.

FROM python:3.11.14-slim-bookworm AS build
ARG SERVICE
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock deploy/compose/select_lock.py ./
# What the service needs, in the locked versions, each checked against its hash; what builds our own
# packages stays behind in this stage.
RUN case "$SERVICE" in \
        payment-intake | cis-poster | autopay-scheduler | notifier) roots="paypost-shared $SERVICE" ;; \
        reference-cis) roots="paypost-shared aiohttp" ;; \
        *) echo "SERVICE is to be payment-intake, cis-poster, autopay-scheduler, notifier or" \
            "reference-cis" >&2; exit 1 ;; \
    esac \
    && python select_lock.py requirements.lock $roots > service.lock \
    && python select_lock.py requirements.lock hatchling > build.lock \
    && python -m venv /opt/paypost \
    && /opt/paypost/bin/pip install --require-hashes --no-deps -r service.lock \
    && pip install --require-hashes --no-deps -r build.lock
COPY shared shared
COPY services services
COPY cli cli
RUN case "$SERVICE" in reference-cis) own=./cli ;; *) own="./services/$SERVICE" ;; esac \
    && pip wheel --no-deps --no-build-isolation --wheel-dir wheels ./shared "$own" \
    && /opt/paypost/bin/pip install --no-deps --no-index wheels/*.whl \
    && /opt/paypost/bin/pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm
ARG SERVICE
ARG RELEASE=0.1.0
LABEL org.opencontainers.image.title="paypost/$SERVICE" org.opencontainers.image.version="$RELEASE"
# Nothing is written at run time but what the operating system wants in /tmp.
ENV PATH=/opt/paypost/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/paypost /opt/paypost
USER 10001:10001
WORKDIR /opt/paypost
# Followed by a module and its command: `cis_poster run`, `cis_poster migrate`.
ENTRYPOINT ["python", "-m"]
