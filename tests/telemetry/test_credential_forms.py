"""Credentials are recognized in free text, and ordinary texts of chemists stay as they are."""

from __future__ import annotations

import base64
import time

import pytest

from telemetry.redaction import REDACTED, credentials_in, is_redacted, redact, redact_text

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl"
KEY = "0123456789abcdef0123456789abcdef01234567"
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\naC1rZXk=\n-----END OPENSSH PRIVATE KEY-----"

# A text, and the parts that must not remain.
SECRET_TEXTS = [
    ("postgresql://me:hunter2@db:5432/x", "hunter2"),
    ("postgresql://me:hun/ter2@db:5432/x", "hun ter2"),
    ("postgresql+psycopg2://me:hun#ter2@db", "hun ter2"),
    ("mysql://me:hun?ter2@db/x?ssl=1", "hun ter2"),
    ("https://me:hun@ter2@host/path", "hun ter2"),
    ("https://me:hun/te?r2@host/path", "hun te?r2"),
    ("https://me:hun%2Fter2@host/path", "hun ter2"),
    ("redis://:hunter2@cache:6379/0", "hunter2"),
    ("postgresql://me:12/34hunter@db", "34hunter"),
    ("see https://a:hunter2@b,https://c:hunter3@d", "hunter2 hunter3"),
    ("https://hf-t0k3n@host", "hf-t0k3n"),
    ("https://host/api?n=1&token=hunter2&m=2", "hunter2"),
    ("GET /api?token=hunter2 HTTP/1.1", "hunter2"),
    ("https://store/x?sv=1&sig=hunter2%3D&se=2", "hunter2"),
    ("https://s3/x?X-Amz-Credential=AKIDhunter%2F2026&X-Amz-Signature=abc123def&n=1", "AKIDhunter abc123def"),
    ("https://host/?key=hunter2", "hunter2"),
    ("https://host/cb#access_token=hunter2&state=1", "hunter2"),
    ("401 for header Authorization: Bearer hunter2 from host", "hunter2"),
    ("Authorization: Basic bWU6aHVudGVyMg== was refused", "bWU6aHVudGVyMg"),
    ("Proxy-Authorization: Basic bWU6aHVudGVyMg==", "bWU6aHVudGVyMg"),
    ("{'Authorization': 'Bearer hunter2', 'n': 1}", "hunter2"),
    ("Authorization: hunter2", "hunter2"),
    ('Authorization: Digest username="me", response="hunter2"', "hunter2"),
    ("Authorization: AWS4-HMAC-SHA256 Credential=hunter1/x, SignedHeaders=h, Signature=hunter2", "hunter1 hunter2"),
    ("sent bearer abcdefgh1234567 twice", "abcdefgh1234567"),
    ("Cookie: sid=hunter2; csrf=hunter3", "hunter2 hunter3"),
    ("Set-Cookie: sid=hunter2; Path=/; HttpOnly", "hunter2"),
    ("{'Cookie': 'sid=hunter2; csrf=hunter3'}", "hunter2 hunter3"),
    ("cookie: Cookie: sid=hunter2", "hunter2"),
    ("authorization: Authorization: Basic hunter2", "hunter2"),
    ("X-Api-Key: hunter2", "hunter2"),
    ("host=h user=u password=hunter2 dbname=x", "hunter2"),
    ("host=h password='hun ter2' user=u", "hun ter2"),
    ("Server=h;Uid=me;Pwd=hunter2;", "hunter2"),
    ("AccountName=me;AccountKey=hunter2==;Suffix=core", "hunter2"),
    ("PGPASSWORD=hunter2 psql", "hunter2"),
    ("env WANDB_API_KEY=" + KEY, KEY),
    ("wandb api_key: " + KEY, KEY),
    ("train --password=hunter2 --epochs 5", "hunter2"),
    ("train --password hunter2 --epochs 5", "hunter2"),
    ("train --api-key 'hunter2' x", "hunter2"),
    ("argv: ['train', '--password', 'hunter2']", "hunter2"),
    ("Login(user='me', password='hunter2')", "hunter2"),
    ('{"password": "hunter2", "n": 1}', "hunter2"),
    ('{"password":"hun\\"ter2","n":1}', "hun ter2"),
    ('{"body": "{\\"token\\": \\"hunter2\\"}"}', "hunter2"),
    ('os.environ["HF_TOKEN"] = "hunter2"', "hunter2"),
    ('dsn="host=h password=hunter2"', "hunter2"),
    ("url='https://host/?x=1&token=hunter2'", "hunter2"),
    ("password: hunter2\nuser: me", "hunter2"),
    ("machine host login me password hunter2", "hunter2"),
    ("pushed with ghp_" + "a1B2" * 9, "ghp_ a1B2"),
    ("github_pat_" + "a1B2" * 9, "a1B2"),
    ("hf_" + "aBcD" * 8, "aBcD"),
    ("sk-proj-" + "a1B2" * 9, "a1B2"),
    ("glpat-" + "a1B2" * 5, "a1B2"),
    ("xoxb-1234567890-abcdef", "1234567890"),
    ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
    (f"jwt {JWT}.", "eyJ c2lnbmF0dXJl"),
    (f"key:\n{PEM}\nend", "b3BlbnNz aC1rZXk"),
    (PEM.partition("-----END")[0], "b3BlbnNz aC1rZXk"),
    ("mssql+pyodbc:///?odbc_connect=UID%3Dsa%3BPWD%3Dhunter2%3B", "hunter2"),
    ("https://host/login?next=https%3A%2F%2Fme%3Ahunter2%40host%2F&n=1", "hunter2"),
    ("https://host/login?next=%2Fapi%3Fsig%3Dhunter2", "hunter2"),
    ("<a href='https://host/?n=1&amp;sig=hunter2'>", "hunter2"),
    ("https://host/?session=hunter2", "hunter2"),
    ("refused: X-Api-Key: hunter2a (403)", "hunter2a"),
    ("curl -H 'PRIVATE-TOKEN: hunter2' host", "hunter2"),
    ('client_secret: "hunter2"', "hunter2"),
    ("api key: hunter2", "hunter2"),
    ("invalid token: hunter2hunter2hunter2", "hunter2hunter2hunter2"),
    ("requests.get(url, auth=('me', 'hunter2'))", "hunter2"),
    ("requests.get(url, auth=HTTPBasicAuth('me', 'hunter2'))", "hunter2"),
    ("<Error><password>hunter2</password></Error>", "hunter2"),
    ("&#34;password&#34;: &#34;hunter2&#34;, password=&quot;hunter3&quot;", "hunter2 hunter3"),
    ("train --wandb-key hunter2", "hunter2"),
    ("Passwort=hunter2", "hunter2"),
    ("local-" + KEY, KEY),
    ("dapi" + KEY[:32], KEY[:32]),
    ("npm_" + "a1B2" * 9, "a1B2"),
    ("pypi-AgEIcHlwaS5vcmc" + "a1B2" * 9, "a1B2"),
]

ORDINARY_TEXTS = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "C=O and C#N, N=[N+]=[N-]",
    "[O-][N+](=O)c1ccc(cc1)/C=C/C@@H",
    "BSYNRYMUTXBXSQ-UHFFFAOYSA-N",
    "InChI=1S/C9H8O4/c1-6(10)13-8-5-3-2-4-7(8)9(11)12/h2-5H,1H3,(H,11,12)",
    "sigma=0.1, sig=3, signature=abc",
    "max_tokens=5 n_tokens=3 tokenizer=bpe",
    "n_auth=3 author=Curie authors: Curie, Meitner",
    "pass_through=yes keys=E,F key=E bypass=1",
    "data.keys.energy=E_wb97m",
    "--max-tokens 5 --tokenizer x --keys a",
    "me@host:/data/x@y:z.h5",
    "/scratch/a@b:c/water.h5",
    "https://host/a@b",
    "https://host:8080/a@b",
    "http://host:5000/#/experiments/1/runs/abc?view=a@b",
    "s3://bucket/run@5:x",
    "sqlite:////abs/a@b.db",
    "git@github.com:org/repo.git",
    "https://host/api?max_tokens=5&n=1",
    "epoch 1/3, iteration 20; train loss 0.12, E 3.4 kcal/mol; 5.1 it/s",
    "commit " + KEY,
    "step-001-" + KEY + ".pt",
    "the password is wrong",
    "telemetry.mlflow.password: unknown key; did you mean 'experiment'?",
    "unexpected token: }",
    "token=None use_token=True password=null",
    "basic functionality, bearer of news, a cookie",
    "sk-learn, task-force-a1B2a1B2a1B2a1B2a1B2",
    "MKAKIAVLDEFGHIKLMNPQRSTVWYACDEFGHIKL",
    "train_loss: 0.5 val/E_rmse: 12.9 meV",
    "12:30:05 2026-01-01T00:00:00Z",
    "pass=2 of 3, fail=0; first pass: 0.1; --pass 2",
    "PWD=/scratch/curie/run pwd: /scratch/curie/run",
    "ssh://curie@host/data sftp://curie@host/data",
    "unknown token: C1CCCCC1",
    "unexpected password: try again (3 left)",
    "<token> C1, <token>",
    'Lattice="10.0 0 0 0 10 0 0 0 10" Properties=species:S:1:pos:R:3 pbc="T T T"',
]


@pytest.mark.parametrize(("text", "parts"), SECRET_TEXTS)
def test_credentials_are_removed_from_texts(text: str, parts: str) -> None:
    shown = redact_text(text)
    assert REDACTED in shown
    assert not [part for part in parts.split(" ") if part in shown], shown
    assert redact_text(shown) == shown
    assert redact({"note": text}) == {"note": shown}
    assert is_redacted({"note": shown})
    assert credentials_in({"note": text})


@pytest.mark.parametrize("text", ORDINARY_TEXTS)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert redact_text(text) == text
    assert redact({"note": text, "notes": [text]}) == {"note": text, "notes": [text]}


def test_the_rest_of_a_text_remains_readable() -> None:
    text = "403 for https://me:hunter2@host:5000/api?token=abc1&n=2 with Authorization: Bearer xyz1 (host is down)"
    expected = "403 for https://***@host:5000/api?token=***&n=2 with Authorization: Bearer *** (host is down)"
    assert redact_text(text) == expected


def test_the_argument_after_an_option_for_a_credential_is_redacted_in_lists() -> None:
    command = ["train", "--password", "hunter2", "--epochs", "5", "--token=abc1", "-p", "5"]
    shown = ["train", "--password", "***", "--epochs", "5", "--token=***", "-p", "5"]
    assert redact({"argv": command}) == {"argv": shown}
    assert credentials_in(command) == {"hunter2", "abc1"}


@pytest.mark.parametrize("secret", ["p@ss/w#rd?1", "pass word%", 'pa"ss\\word'])
def test_known_credentials_are_removed_however_they_are_encoded(secret: str) -> None:
    from json import dumps
    from urllib.parse import quote

    text = f"{secret} {quote(secret)} {quote(secret, safe='')} {dumps(secret)}"
    assert redact_text(text, [secret]) == '*** *** *** "***"'


def test_credentials_in_the_environment_are_removed_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_PASSWORD", "correct horse")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("SHORT_TOKEN", "true")
    monkeypatch.setenv("PWD", "/home/curie")
    monkeypatch.setenv("SSH_KEY_FILE", "/home/curie/.ssh/id")
    text = f"{'k' * 40} correct horse true /home/curie/.ssh/id"
    assert redact_text(text) == "*** *** true /home/curie/.ssh/id"
    assert redact({"note": text, "n": 1}) == {"note": "*** *** true /home/curie/.ssh/id", "n": 1}


@pytest.mark.parametrize("value", ["energy", "kerberos", "Aspirin", "20261231", "/scratch/curie", "~/keys"])
def test_words_numbers_and_paths_in_the_environment_are_no_credentials(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTP_AUTH", value)
    monkeypatch.setenv("LAB_SECRETS", value)
    text = f"RMSE of {value} in {value}/water.h5"
    assert redact({"note": text}) == {"note": text}
    assert redact_text(f"password={value}") == "password=***"


def test_passwords_in_urls_of_the_environment_are_removed_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://curie:hun/ter2@db/x")
    assert redact_text("no host hun/ter2@db, user curie") == "no host ***@db, user curie"


@pytest.mark.parametrize("user", ["a", "me", "api", "curie"])
def test_known_credentials_are_removed_from_logins_in_base64(user: str) -> None:
    sent = base64.b64encode(f"{user}:hunter2-and-more".encode()).decode()
    before, _, after = redact_text(f"you sent {sent} twice", ["hunter2-and-more"]).partition(REDACTED)
    # The characters at the ends contain a part of a byte.
    assert len(before) - len("you sent ") <= 4 * len(user) // 3 + 3
    assert len(after.removesuffix(" twice").rstrip("=")) <= 1


ADVERSARIAL = [
    "%3A%2F%2F",
    "%3A%2F%2Fa%3A",
    "%3Dpassword%3D",
    "password=(",
    "api ",
    "<password>",
    "&quot;password",
    "password: a1",
    "a",
    " ",
    ":",
    "@",
    "://",
    "://a:b",
    "://a:b@",
    "?a",
    "?token=",
    "token=",
    "token='",
    'token="',
    '"token":"',
    '"a',
    '"\\"',
    "a=b&",
    "--token ",
    "bearer ",
    "bearer a",
    "login a ",
    "a=",
    "'a':",
    "'a':'",
    "Cookie: a=b; ",
    "Cookie: a;",
    "Authorization: Digest ",
    "authorization:",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN ",
    "eyJ",
    "eyJaaaaaaaa.",
    "sk-",
    "a.b-c_",
    "token: a ",
]


@pytest.mark.parametrize("unit", ADVERSARIAL)
def test_the_time_is_proportional_to_the_length(unit: str) -> None:
    # Quadratic time would be more than 10 s.
    assert seconds(unit, 100_000) < 3


@pytest.mark.slow
def test_a_megabyte_takes_seconds() -> None:
    assert max(seconds(unit, 1_000_000) for unit in ADVERSARIAL) < 15


def seconds(unit: str, length: int) -> float:
    text = unit * (length // len(unit))
    start = time.process_time()
    redact_text(text)
    return time.process_time() - start
