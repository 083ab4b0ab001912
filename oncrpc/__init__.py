"""ONC RPC version 2 (RFC 5531) over UDP, TCP and unix sockets: codec, server loop, client, portmapper client."""
