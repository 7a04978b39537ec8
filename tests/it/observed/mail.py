"""Takes mail by aiosmtpd over TLS, and prints each as a line of JSON; first the ports, with TLS from the start and by STARTTLS.

Arguments: the certificate and its key.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP

tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(sys.argv[1], sys.argv[2])


class Taker:
    async def handle_DATA(self, server, session, envelope):
        told = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": server.transport.get_extra_info("ssl_object") is not None}
        told["text"] = envelope.content.decode()
        print(json.dumps(told), flush=True)
        return "250 taken"


async def main():
    loop = asyncio.get_running_loop()
    whole = await loop.create_server(lambda: SMTP(Taker()), "127.0.0.1", 0, ssl=tls)
    later = await loop.create_server(
        lambda: SMTP(Taker(), tls_context=tls, require_starttls=True), "127.0.0.1", 0
    )
    print(json.dumps([server.sockets[0].getsockname()[1] for server in (whole, later)]), flush=True)
    await asyncio.gather(whole.serve_forever(), later.serve_forever())


asyncio.run(main())
