// A certified OpenID Provider (oidc-provider) on loopback, over TLS, as its configuration file says.
// Whoever gives a name at its login page is that person: the page is the library's own, made for development.
import { readFileSync } from 'node:fs';
import https from 'node:https';
import Provider from 'oidc-provider';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));

const provider = new Provider(config.issuer, {
  clients: config.clients,
  jwks: config.jwks,
  cookies: { keys: [config.cookieKey] },
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256'] },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: { AccessToken: config.lifetime, RefreshToken: 3600, DeviceCode: 120 },
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, email: config.emails[id] }) }),
  extraTokenClaims: (_ctx, token) => ({ groups: config.groups[token.accountId] ?? [] }),
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (_ctx, resource) => {
        if (!config.audiences.includes(resource)) throw new Error('no such resource');
        return {
          scope: '',
          audience: resource,
          accessTokenFormat: 'jwt',
          accessTokenTTL: config.lifetime,
          jwt: { sign: { alg: config.algorithm } },
        };
      },
    },
  },
});

provider.on('server_error', (_ctx, error) => console.error(error));
const tls = { cert: readFileSync(config.certificate), key: readFileSync(config.key) };
https.createServer(tls, provider.callback()).listen(config.port, '127.0.0.1', () => console.log('ready'));
