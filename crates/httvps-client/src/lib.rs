//! The httvps client as a library: sessions that reconnect, SOCKS5 and HTTP proxy listeners, port forwards
