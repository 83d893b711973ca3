package strongroom;

import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.FilterConfig;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;

/** Answers 403 to everything: the web pages of Spark's master and workers cannot be turned off. */
public final class DenyFilter implements Filter {
  public void init(FilterConfig config) {}

  public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain) throws IOException {
    ((HttpServletResponse) response).setStatus(HttpServletResponse.SC_FORBIDDEN);
  }

  public void destroy() {}
}
