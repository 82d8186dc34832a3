// Serves HTTP by three servers of Java, and TLS by its own stack: Servers JDK-PORT JETTY-PORT TOMCAT-PORT TLS-PORT
// PKCS12. What the servers of HTTP say is for which host they were asked.
import java.io.FileInputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.security.KeyStore;
import java.util.concurrent.Executors;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

public class Servers {
    static byte[] page(String host) {
        boolean shared = host != null && host.toLowerCase().contains("shared.example");
        return (shared ? "served shared.example" : "served another host").getBytes();
    }

    public static void main(String[] args) throws Exception {
        var jdk = com.sun.net.httpserver.HttpServer.create(new InetSocketAddress("0.0.0.0", Integer.parseInt(args[0])), 0);
        jdk.createContext("/", exchange -> {
            byte[] body = page(exchange.getRequestHeaders().getFirst("Host"));
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        jdk.setExecutor(Executors.newCachedThreadPool());
        jdk.start();

        var jetty = new org.eclipse.jetty.server.Server(Integer.parseInt(args[1]));
        jetty.setHandler(new org.eclipse.jetty.server.handler.AbstractHandler() {
            public void handle(String target, org.eclipse.jetty.server.Request base, javax.servlet.http.HttpServletRequest request,
                    javax.servlet.http.HttpServletResponse response) throws IOException {
                base.setHandled(true);
                response.getOutputStream().write(page(request.getServerName()));
            }
        });
        jetty.start();

        var tomcat = new org.apache.catalina.startup.Tomcat();
        tomcat.setBaseDir(Files.createTempDirectory("tomcat").toString());
        tomcat.setPort(Integer.parseInt(args[2]));
        tomcat.getConnector();
        var context = tomcat.addContext("", null);
        org.apache.catalina.startup.Tomcat.addServlet(context, "page", new jakarta.servlet.http.HttpServlet() {
            protected void service(jakarta.servlet.http.HttpServletRequest request, jakarta.servlet.http.HttpServletResponse response)
                    throws IOException {
                response.getOutputStream().write(page(request.getServerName()));
            }
        });
        context.addServletMappingDecoded("/*", "page");
        tomcat.start();

        var store = KeyStore.getInstance("PKCS12");
        store.load(new FileInputStream(args[4]), "secret".toCharArray());
        var keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(store, "secret".toCharArray());
        var tls = SSLContext.getInstance("TLS");
        tls.init(keys.getKeyManagers(), null, null);
        var listener = (SSLServerSocket) tls.getServerSocketFactory().createServerSocket(Integer.parseInt(args[3]));
        var pool = Executors.newCachedThreadPool();
        while (true) {
            var socket = (SSLSocket) listener.accept();
            pool.submit(() -> {
                try (socket) {
                    socket.startHandshake();
                    OutputStream out = socket.getOutputStream();
                    out.write("hello".getBytes());
                } catch (IOException e) {
                    // what clients do wrong
                }
            });
        }
    }
}
